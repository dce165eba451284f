"""The driver against a real kernel, in a network namespace of its own."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import groupby
from types import SimpleNamespace
from typing import Self

import pytest
from msgspec import structs

from tests.portals.conftest import Network, shell, with_addresses
from tests.portals.examples import REJECT, WEB_NAME, cluster_ip_binding, in_family, led_to, serve, web
from tests.portals.netlink.test_conntrack import drop_capabilities
from tests.portals.nftables.conftest import TABLES, Driven
from userproxy import pace
from userproxy.addresses import SOCKET_FAMILIES
from userproxy.errors import KernelToolError
from userproxy.model import (
    IPFamily,
    LocalTraffic,
    Portal,
    PortalBinding,
    PortalKind,
    PortalSync,
    Protocol,
    ServicePortName,
)
from userproxy.portals import netlink
from userproxy.portals.interface import Cleaned
from userproxy.portals.lease import Lease
from userproxy.portals.netlink.transactions import TransactionReader
from userproxy.portals.nftables.driver import NftablesDriver
from userproxy.portals.nftables.messages import DELETE_ELEMENTS, DELETE_RULES, NEW_ELEMENTS
from userproxy.portals.nftables.messages import NEW_RULE as NEW_RULES

pytestmark = pytest.mark.slow

DNS = ServicePortName("kube-system", "dns", "", Protocol.UDP)


def dns(family: IPFamily) -> PortalBinding:
    """A load balancer for some, with another listener for this node's own."""
    portals = (
        Portal(PortalKind.LOAD_BALANCER_IP, in_family("198.51.100.7", family), 53),
        Portal(PortalKind.NODE_PORT, "", 30053),
    )
    ranges = (in_family("172.17.0.0/16", family), in_family("203.0.113.5/32", family))
    return PortalBinding(DNS, portals, REJECT, serve(40001), serve(40002), ranges)


def test_the_table_in_the_words_of_nft(driven: Driven) -> None:
    driven.recognise(LocalTraffic(("10.244.1.0/24", "fd00:244::/57"), "veth+"))
    assert driven.sync(web(driven.family), dns(driven.family)) == PortalSync(differed=True)
    ip = "ip" if driven.family is IPFamily.IPV4 else "ip6"
    pods = "10.244.1.0/24" if ip == "ip" else "fd00:244::/57"
    node = "192.0.2.10" if ip == "ip" else "[2001:db8::10]"
    web_ip, external_ip = (in_family(each, driven.family) for each in ("10.96.0.10", "203.0.113.5"))
    assert driven.elements("portals") == sorted(
        [
            f'{web_ip} . tcp . 80 comment "default/web:http, cluster IP" : 41234',
            f'{external_ip} . tcp . 80 comment "default/web:http, external IP" : 41234',
        ]
    )
    assert driven.elements("node-ports") == ['tcp . 30080 comment "default/web:http, node port" : 41234']
    assert driven.elements("node-ports-from-node") == ['udp . 30053 comment "kube-system/dns, node port" : 40002']
    assert driven.elements("udp-listeners") == [
        '40001 comment "kube-system/dns"',
        '40002 comment "kube-system/dns"',
    ]
    assert len(driven.elements("allowed")) == 2
    rules = [line.strip() for line in driven.listing().splitlines()]
    for rule in (
        "type nat hook prerouting priority dstnat - 5; policy accept;",
        f"meta l4proto tcp dnat to {node}:{ip} daddr . meta l4proto . tcp dport map @portals",
        f"meta l4proto udp dnat to {node}:meta l4proto . udp dport map @node-ports-from-elsewhere",
        f"{ip} saddr {pods} goto nat-from-node",
        'iifname "veth*" goto nat-from-node',
        "fib daddr type local goto nat-node-ports-from-node",
        f"{ip} daddr . meta l4proto . th dport @restricted"
        f" {ip} daddr . meta l4proto . th dport . {ip} saddr != @allowed drop",
        f"ct state new {ip} daddr . meta l4proto . th dport vmap @refused-portals",
        "ct state new udp dport @udp-listeners fib daddr type local ct status ! dnat goto refuse",
        "reject with tcp reset",
    ):
        assert rule in rules


def test_nft_can_load_what_it_prints_of_us(driven: Driven) -> None:
    driven.recognise(LocalTraffic(("10.244.1.0/24", "fd00:244::/57"), "veth+"))
    driven.sync(web(driven.family), dns(driven.family))
    before = driven.listing()
    driven.network.shell("nft", "-f", "-", text=f"flush ruleset\n{before}")
    assert driven.listing() == before.replace("reject with tcp reset", "meta l4proto tcp reject with tcp reset") or (
        driven.listing() == before
    )


def test_what_stands_is_written_once(driven: Driven) -> None:
    """The kernel lists rules and elements in the very bytes in which we write them."""
    bindings = (web(driven.family), dns(driven.family))
    driven.recognise(LocalTraffic(("10.244.1.0/24", "fd00:244::/57"), "cbr0"))
    driven.sync(*bindings)
    driven.driver.lease.release()
    successor = Driven(driven.network, driven.family)
    successor.recognise(LocalTraffic(("10.244.1.0/24", "fd00:244::/57"), "cbr0"))
    with Monitor(driven) as monitor:
        assert successor.sync(*bindings) == PortalSync()
        assert monitor.heard() == []
    successor.close()


def test_a_change_edits_what_it_changes(driven: Driven) -> None:
    one, other, third = (cluster_ip_binding(number, family=driven.family) for number in (1, 2, 3))
    driven.sync(one, other, third)
    moved = cluster_ip_binding(1, 12345, driven.family)
    with Monitor(driven) as monitor:
        assert driven.sync(moved, gone=[other.name], verify=False) == PortalSync()
        assert monitor.heard() == [(DELETE_ELEMENTS, 2), (NEW_ELEMENTS, 1)]
    assert {each.rpartition(" ")[2] for each in driven.elements("portals")} == {"10003", "12345"}


def test_a_first_sync_is_one_transaction(driven: Driven) -> None:
    with Monitor(driven) as monitor:
        driven.sync(*(cluster_ip_binding(number, family=driven.family) for number in range(1000)))
        assert (NEW_ELEMENTS, 1000) in monitor.heard()
        assert monitor.transactions == 1


class Monitor:
    """Hears what the kernel says of changes to our table."""

    def __init__(self, driven: Driven) -> None:
        self._socket = driven.network.run(lambda: netlink.netlink_socket(netlink.NETFILTER))
        self._socket.settimeout(0)
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        self._socket.setsockopt(270, 1, 7)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES
        self._number = SOCKET_FAMILIES[driven.family]
        self.transactions = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def heard(self) -> list[tuple[int, int]]:
        """The kinds of messages, in their order, with how many of each came one after the other."""
        kinds: list[int] = []
        reader = TransactionReader(lambda touched: (touched.family, touched.table) == (self._number, "userproxy"))
        with suppress(BlockingIOError):
            while data := self._socket.recv(1 << 16):
                self.transactions += sum(each.concerns for each in reader.read(data))
                kinds += [
                    kind
                    for kind, begin, _ in netlink.messages(data)
                    if data[begin] == self._number and data.startswith(b"userproxy\0", begin + 8)
                ]
        return [(kind, len(list(group))) for kind, group in groupby(kinds)]


def test_what_others_do_to_our_table_is_put_right(driven: Driven) -> None:
    bindings = (web(driven.family), dns(driven.family))
    driven.sync(*bindings)
    before = driven.listing()
    table = TABLES[driven.family]
    web_ip = in_family("10.96.0.10", driven.family)
    for sabotage in (
        ("flush", "ruleset"),
        ("delete", "table", *table),
        ("flush", "chain", *table, "nat-prerouting"),
        ("flush", "map", *table, "portals"),
        ("flush", "set", *table, "allowed"),
        ("delete", "element", *table, "portals", f"{{ {web_ip} . tcp . 80 }}"),
        ("add", "element", *table, "portals", f"{{ {web_ip} . tcp . 81 : 5 }}"),
        ("add", "element", *table, "refused-portals", f"{{ {web_ip} . tcp . 80 : drop }}"),
        ("insert", "rule", *table, "nat-prerouting", "drop"),
        ("add", "chain", *table, "mine"),
        ("delete", "chain", *table, "nat-output"),
    ):
        driven.nft(*sabotage)
        assert driven.nft("list", "ruleset") != before, sabotage
        assert driven.sync() == PortalSync(differed=True), sabotage
        assert sorted(driven.listing().splitlines()) == sorted(before.splitlines()), sabotage
        assert driven.sync() == PortalSync()


def test_only_what_is_missing_is_written(driven: Driven) -> None:
    bindings = [cluster_ip_binding(number, family=driven.family) for number in range(100)]
    driven.sync(*bindings)
    key = driven.elements("portals")[5].partition(" comment")[0]
    driven.nft("delete", "element", *TABLES[driven.family], "portals", f"{{ {key} }}")
    with Monitor(driven) as monitor:
        assert driven.sync() == PortalSync(differed=True)
        assert monitor.heard() == [(NEW_ELEMENTS, 1)]


def test_tables_of_others_are_left_alone(driven: Driven) -> None:
    driven.network.shell(
        "nft", "-f", "-", text="table inet theirs {\nchain c {\n type filter hook input priority 0;\n}\n}\n"
    )
    theirs = driven.nft("list", "table", "inet", "theirs")
    driven.sync(web(driven.family))
    driven.nft("add", "rule", "inet", "theirs", "c", "counter")
    theirs = driven.nft("list", "table", "inet", "theirs")
    driven.sync(web(driven.family, 5))
    assert driven.run(driven.driver.remove) == [f"nftables: removed the table {' '.join(TABLES[driven.family])}"]
    assert driven.nft("list", "table", "inet", "theirs") == theirs
    assert driven.tables() == ["table inet theirs"]
    assert driven.run(driven.driver.remove) == []


@pytest.mark.parametrize("sabotage", ["flush ruleset", "flush map {table} portals"])
def test_a_change_that_meets_those_of_others_repairs_them(driven: Driven, sabotage: str) -> None:
    """Though it is not asked to look."""
    driven.sync(web(driven.family))
    driven.nft(*sabotage.format(table=" ".join(TABLES[driven.family])).split())
    driven.sync(gone=[WEB_NAME], verify=False)
    assert driven.elements("portals") == []
    driven.sync(web(driven.family), verify=False)
    assert len(driven.elements("portals")) == 2


def test_a_change_is_written_unread_while_others_write_elsewhere(driven: Driven) -> None:
    driven.sync(web(driven.family))
    driven.nft("add", "table", "ip", "theirs")
    assert driven.sync(cluster_ip_binding(1, family=driven.family), verify=False) == PortalSync()
    assert len(driven.elements("portals")) == 3


def test_the_ports_of_an_earlier_process(driven: Driven) -> None:
    assert driven.run(driven.driver.local_ports) == {}
    internal, external = serve(1), serve(2)
    portals = (
        Portal(PortalKind.NODE_PORT, "", 30080),
        Portal(PortalKind.CLUSTER_IP, in_family("10.96.0.10", driven.family), 80),
    )
    driven.sync(PortalBinding(WEB_NAME, portals, internal, external, internal), dns(driven.family))
    assert driven.run(driven.driver.local_ports) == {WEB_NAME: (1, 2), DNS: (40002, 40001)}


def test_the_node_moves(driven: Driven) -> None:
    """Rules name its address, elements do not."""
    driven.sync(web(driven.family))
    old, new = (in_family(ip, driven.family) for ip in ("192.0.2.10", "192.0.2.11"))
    length = 24 if driven.family is IPFamily.IPV4 else 64
    driven.network.shell("ip", "address", "del", f"{old}/{length}", "dev", "eth0")
    driven.network.shell("ip", "address", "add", f"{new}/{length}", "dev", "eth0", *NODAD[driven.family])
    with Monitor(driven) as monitor:
        driven.sync(verify=False)
        assert {kind for kind, _ in monitor.heard()} == {DELETE_RULES, NEW_RULES}
    assert old not in driven.listing()
    assert f"dnat to {new if driven.family is IPFamily.IPV4 else f'[{new}]'}:" in driven.listing()
    assert driven.sync() == PortalSync()


NODAD: dict[IPFamily, tuple[str, ...]] = {IPFamily.IPV4: (), IPFamily.IPV6: ("nodad",)}


def test_the_ranges_of_a_node_that_moves(driven: Driven) -> None:
    """Where the node itself may use a load-balancer IP, so may the load-balancer IPs."""
    later = in_family("192.0.2.11/32", driven.family)
    driven.sync(structs.replace(dns(driven.family), source_ranges=(later,)))
    before = len(driven.elements("allowed"))
    length = 24 if driven.family is IPFamily.IPV4 else 64
    old, new = (in_family(ip, driven.family) for ip in ("192.0.2.10", "192.0.2.11"))
    driven.network.shell("ip", "address", "del", f"{old}/{length}", "dev", "eth0")
    driven.network.shell("ip", "address", "add", f"{new}/{length}", "dev", "eth0", *NODAD[driven.family])
    driven.sync()
    assert (before, len(driven.elements("allowed"))) == (1, 2)


def test_without_anything_to_serve_no_address_is_needed(network: Network, family: IPFamily) -> None:
    driven = Driven(network, family)
    driven.sync()
    assert "dnat to" not in driven.listing()
    with pytest.raises(KernelToolError, match="no interface that is up has a global"):
        driven.sync(web(family))
    with_addresses(network)
    assert driven.sync() == PortalSync()
    assert len(driven.elements("portals")) == 2
    driven.close()


def test_a_name_that_cannot_be_a_comment_costs_nobody_else_anything(driven: Driven) -> None:
    odd = led_to(ServicePortName("default", 'a"b', "", Protocol.TCP), 5, [Portal(PortalKind.NODE_PORT, "", 30081)])
    done = driven.sync(odd, web(driven.family))
    assert done.refused == {
        odd.name: "service port 'default/a\"b': its name cannot be the comment of an nftables element"
    }
    assert len(driven.elements("node-ports")) == 1
    assert driven.sync(gone=[odd.name]).refused == {}


def test_a_portal_that_moves_from_one_service_port_to_another(driven: Driven) -> None:
    """In one sync, in whatever order they are named, and while both claim it."""
    one = cluster_ip_binding(1, 1001, driven.family)
    other = PortalBinding(ServicePortName("bulk", "other", "", Protocol.TCP), one.portals, *(serve(1002),) * 3)
    driven.sync(one)
    driven.sync(other)
    assert [each.rpartition(" ")[2] for each in driven.elements("portals")] == ["1002"]
    driven.sync(gone=[other.name], verify=False)
    assert [each.rpartition(" ")[2] for each in driven.elements("portals")] == ["1001"]
    driven.sync(other, gone=[one.name], verify=False)
    assert [each.rpartition(" ")[2] for each in driven.elements("portals")] == ["1002"]


def test_another_userproxy_keeps_the_portals(driven: Driven) -> None:
    other = Lease(driven.family)
    driven.network.run(other.take)
    with pytest.raises(KernelToolError, match="another userproxy keeps"):
        driven.sync(web(driven.family))
    assert driven.tables() == []
    other.release()
    driven.sync()
    assert len(driven.elements("portals")) == 2


def test_what_a_driver_needs_is_looked_for_without_a_trace(driven: Driven) -> None:
    assert driven.network.run(partial(NftablesDriver.unusable, driven.family)) is None
    assert driven.tables() == []
    driven.sync(web(driven.family))
    before = driven.nft("-a", "list", "ruleset")
    assert driven.network.run(partial(NftablesDriver.unusable, driven.family)) is None
    assert driven.nft("-a", "list", "ruleset") == before


def test_without_the_capability_one_sentence_says_so(driven: Driven) -> None:
    driven.network.run(drop_capabilities)
    with pytest.raises(KernelToolError, match="only with CAP_NET_ADMIN, which this process lacks"):
        driven.sync(web(driven.family))
    assert "CAP_NET_ADMIN" in (driven.network.run(partial(NftablesDriver.unusable, driven.family)) or "")


def test_cleanup(driven: Driven) -> None:
    assert driven.network.run(partial(NftablesDriver.clean_up, driven.family)) == Cleaned()
    driven.sync(web(driven.family))
    name = " ".join(TABLES[driven.family])
    removed = Cleaned((f"nftables: removed the table {name}",))
    assert driven.network.run(partial(NftablesDriver.clean_up, driven.family)) == removed
    assert driven.tables() == []


@pytest.mark.parametrize("left", range(0, 100, 7))
def test_whatever_an_earlier_process_left_is_converged_from(driven: Driven, left: int) -> None:
    """Even one of another version, whose table has something else in it: rules and elements in any state."""
    bindings = [cluster_ip_binding(number, family=driven.family) for number in range(20)]
    driven.sync(*bindings)
    wanted = driven.listing()
    lines = driven.network.shell("nft", "-a", "list", "table", *TABLES[driven.family]).splitlines()
    handles = [(line.split()[-1], chain) for line, chain in with_chains(lines)]
    handle, chain = handles[left % len(handles)]
    driven.nft("delete", "rule", *TABLES[driven.family], chain, "handle", handle)
    driven.nft("delete", "element", *TABLES[driven.family], "portals", driven.key_of_element(left % 20))
    driven.driver.lease.release()
    successor = Driven(driven.network, driven.family)
    assert successor.sync(*bindings).differed
    assert sorted(successor.listing().splitlines()) == sorted(wanted.splitlines())
    successor.close()


def with_chains(lines: list[str]) -> Iterator[tuple[str, str]]:
    """The rules among what nft lists, each with its chain."""
    chain = ""
    for line in lines:
        words = line.split()
        if words[:1] == ["chain"]:
            chain = words[1]
        elif chain and words[:1] not in (["type"], ["}"]) and "# handle" in line:
            yield line, chain


def test_what_others_do_is_noticed_and_their_program_named(driven: Driven) -> None:
    async def scenario() -> PortalSync:
        disturbed = asyncio.Event()
        family, ours = TABLES[driven.family]
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(driven.driver.watch(disturbed.set), name="watch")
            await driven.driver.sync([web(driven.family)])
            await asyncio.to_thread(shell, "nft", "add", "chain", family, ours, "more")
            await asyncio.wait_for(disturbed.wait(), 30)
            watching.cancel()
        return await driven.driver.sync([])

    done = driven.run(scenario)
    assert done.differed
    assert done.changed_by.startswith("nft (process ")


def test_the_thread_that_makes_elements_leaves_the_interpreter_to_a_loop_that_serves_traffic(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(pace, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(pace._Work, "serves", True)
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=time.perf_counter, sleep=slept.append))
    several = [cluster_ip_binding(number, family=driven.family) for number in range(20)]
    assert driven.sync(*several) == PortalSync(differed=True)
    assert len(slept) >= len(several)
