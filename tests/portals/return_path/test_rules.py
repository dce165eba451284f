"""Our tables, as nft prints them and as the kernel lists them."""

import errno
from functools import partial
from typing import Any

import pytest

from tests.portals.conftest import Network
from userproxy.addresses import IPFamily
from userproxy.portals import netlink
from userproxy.portals.return_path import policy_routing, tables
from userproxy.portals.return_path.marks import DEFAULT, Mark
from userproxy.portals.return_path.rules import PodBridge, Table, bridge_table, marking_table

MAC = bytes.fromhex("02aabbccddee")
BRIDGES = {
    IPFamily.IPV4: (PodBridge("10.1.0.0/24", MAC), PodBridge("10.2.0.7/32", MAC)),
    IPFamily.IPV6: (PodBridge("fd01::/64", MAC),),
}
FAMILIES = pytest.mark.parametrize("family", IPFamily)

IPV4_TEXT = """\
table ip userproxy-return-path {
	chain mark-transparent {
		socket wildcard 1 return
		meta mark set meta mark & 0xfffff5ff | 0x00000500
	}

	chain prerouting {
		type filter hook prerouting priority dstnat + 10; policy accept;
		socket transparent 1 goto mark-transparent
	}
}
"""


def both(family: IPFamily) -> list[Table]:
    return [marking_table(family, DEFAULT, defragments=True), bridge_table(family, BRIDGES[family])]


@FAMILIES
def test_the_kernel_lists_the_bytes_that_are_written(network: Network, family: IPFamily) -> None:
    wanted = both(family)
    for table, listed in zip(wanted, network.run(partial(tables.write, family, wanted)), strict=True):
        assert listed == tuple((chain.name, rule) for chain in table.chains for rule in chain.rules)


@FAMILIES
def test_rules_that_others_write_meanwhile_are_no_obstacle(
    network: Network, family: IPFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node whose CNI plug-in writes rules all the time, a list often changes while the kernel gives it."""
    (table,) = wanted = both(family)[:1]
    listed = network.run(partial(tables.write, family, wanted))
    disturbances = iter([InterruptedError(errno.EINTR, "the list changed while the kernel gave it")] * 3)
    dump = netlink.dump

    def disturbed(*args: Any) -> Any:
        for error in disturbances:
            raise error
        return dump(*args)

    monkeypatch.setattr(netlink, "dump", disturbed)
    assert (network.run(partial(tables.listing, table)),) == listed
    disturbances = iter([InterruptedError(errno.EINTR, "the list changed while the kernel gave it")] * 3)
    assert network.run(partial(policy_routing.rules, family))
    disturbances = iter([InterruptedError(errno.EINTR, "the list changed while the kernel gave it")] * 3)
    assert network.run(partial(policy_routing.local_defaults, family)) == {}


def test_nft_prints_what_is_meant(network: Network) -> None:
    network.run(
        partial(tables.write, IPFamily.IPV4, [marking_table(IPFamily.IPV4, Mark(0x500, 0xF00), defragments=False)])
    )
    assert network.shell("nft", "list", "ruleset") == IPV4_TEXT


def test_a_bridge_gives_up_answers_and_what_belongs_to_them(network: Network) -> None:
    network.run(partial(tables.write, IPFamily.IPV4, both(IPFamily.IPV4)[1:]))
    text = network.shell("nft", "list", "ruleset")
    for rule in (
        "meta protocol ip tcp dport >= 61000 goto raise-answers",
        "meta protocol ip udp dport >= 61000 goto raise-answers",
        "icmp type destination-unreachable @th,224,16 >= 0xee48 goto raise-answers",
        "ip frag-off & 16383 != 0 goto raise-answers",
        "ether daddr set 02:aa:bb:cc:dd:ee meta pkttype set host",
    ):
        assert rule in text


@FAMILIES
def test_what_is_in_the_way_is_replaced_and_both_families_are_apart(network: Network, family: IPFamily) -> None:
    for each in IPFamily:
        network.run(partial(tables.write, each, both(each)))
    before = network.shell("nft", "list", "ruleset")
    name = "ip" if family is IPFamily.IPV4 else "ip6"
    network.shell("nft", f"add chain {name} userproxy-return-path theirs; flush table {name} userproxy-return-path")
    network.run(partial(tables.write, family, both(family)))
    assert sorted(network.shell("nft", "list", "ruleset").splitlines()) == sorted(before.splitlines())
    assert len(network.run(partial(tables.remove, family, both(family)))) == 2
    assert len(network.shell("nft", "list", "tables").splitlines()) == 2
    assert network.run(partial(tables.remove, family, both(family))) == []
