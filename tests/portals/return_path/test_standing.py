"""What makes answers come back, in a real kernel: which address a backend sees, over links and over a bridge."""

import socket
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.portals.conftest import Network
from tests.portals.return_path.conftest import BACKEND, CLIENT, Pods, bound, ip
from userproxy.addresses import IPFamily
from userproxy.errors import KernelToolError
from userproxy.model import DirectNetwork, LocalTraffic, Protocol, ReturnPath
from userproxy.portals.return_path import policy_routing
from userproxy.portals.return_path.marks import DEFAULT, Mark
from userproxy.portals.return_path.rules import PodBridge
from userproxy.portals.return_path.standing import Standing

FAMILIES = pytest.mark.parametrize("family", IPFamily)
PROTOCOLS = pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
MORE_THAN_A_PACKET = 5000


def make(node: Network, family: IPFamily, mark: Mark = DEFAULT) -> ReturnPath:
    return node.run(partial(Standing(family, mark, guard=False).make, LocalTraffic(), ()))


def sysctl(node: Network, name: str, value: int) -> None:
    node.run(partial(Path("/proc/sys", *name.split(".")).write_text, str(value)))


@FAMILIES
@PROTOCOLS
def test_routed_pods_answer_to_the_client(routed: Pods, family: IPFamily, protocol: Protocol) -> None:
    path = make(routed.node, family)
    assert path.problem == ""
    bits = 32 if family is IPFamily.IPV4 else 128
    assert path.networks == (
        DirectNetwork(f"{CLIENT[family]}/{bits}", "pod0", of_pods=True),
        DirectNetwork(f"{BACKEND[family]}/{bits}", "pod1", of_pods=True),
    )
    assert routed.seen(family, protocol) == CLIENT[family]
    assert routed.seen(family, protocol, MORE_THAN_A_PACKET) == CLIENT[family]


def test_without_it_no_answer_comes_back(routed: Pods) -> None:
    assert routed.seen(IPFamily.IPV4, Protocol.UDP) is None


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("bridge_netfilter", [0, 1])
def test_pods_of_a_bridge_answer_to_the_client(
    bridged: Pods, family: IPFamily, protocol: Protocol, bridge_netfilter: int
) -> None:
    for name in ("iptables", "ip6tables"):
        sysctl(bridged.node, f"net.bridge.bridge-nf-call-{name}", bridge_netfilter)
    path = make(bridged.node, family)
    assert path.problem == ""
    network = "10.1.0.0/24" if family is IPFamily.IPV4 else "fd01::/64"
    assert path.networks == (DirectNetwork(network, "cbr0", of_pods=True, is_bridge=True, answers_rise=True),)
    assert bridged.seen(family, protocol) == CLIENT[family]
    assert bridged.seen(family, protocol, MORE_THAN_A_PACKET) == CLIENT[family]


@FAMILIES
def test_a_refusal_comes_back_over_a_bridge(bridged: Pods, family: IPFamily) -> None:
    make(bridged.node, family)
    assert bridged.refused(family)


@PROTOCOLS
def test_it_works_where_sources_are_checked_strictly_and_with_marks(routed: Pods, protocol: Protocol) -> None:
    make(routed.node, IPFamily.IPV4)
    for link in ("all", "pod0", "pod1"):
        sysctl(routed.node, f"net.ipv4.conf.{link}.rp_filter", 1)
        sysctl(routed.node, f"net.ipv4.conf.{link}.src_valid_mark", 1)
    assert routed.seen(IPFamily.IPV4, protocol) == CLIENT[IPFamily.IPV4]


@FAMILIES
def test_it_tracks_no_connection(routed: Pods, family: IPFamily) -> None:
    make(routed.node, family)
    assert routed.seen(family, Protocol.TCP) == CLIENT[family]
    assert routed.node.run(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text).strip() == "0"


@PROTOCOLS
def test_it_works_where_answers_have_been_masqueraded_by_others(routed: Pods, protocol: Protocol) -> None:
    ip(routed.node, "address add 192.0.2.10/32 dev lo")
    routed.node.shell(
        "nft",
        "add table ip theirs; add chain ip theirs post { type nat hook postrouting priority srcnat; };"
        " add rule ip theirs post ip saddr 10.1.0.2 snat to 192.0.2.10",
    )
    make(routed.node, IPFamily.IPV4)
    assert routed.seen(IPFamily.IPV4, protocol) == "192.0.2.10"


@FAMILIES
def test_another_mark_keeps_the_bits_of_others(routed: Pods, family: IPFamily) -> None:
    routed.node.shell(
        "nft",
        "add table inet theirs; add chain inet theirs pre { type filter hook prerouting priority -150; };"
        " add rule inet theirs pre meta mark set 0x40020;"
        " add chain inet theirs in { type filter hook input priority 0; };"
        " add rule inet theirs in meta l4proto udp meta mark != 0x40520 drop",
    )
    make(routed.node, family, Mark(0x500, 0xF00))
    assert routed.seen(family, Protocol.UDP) == CLIENT[family]


def test_a_table_of_others_is_left_alone(routed: Pods) -> None:
    ip(routed.node, "route add unreachable 198.51.100.1 table 61117", "rule add fwmark 0x1800/0x1800 lookup 61118")
    make(routed.node, IPFamily.IPV4)
    assert "61119" in routed.node.shell("ip", "rule")
    assert routed.seen(IPFamily.IPV4, Protocol.TCP) == CLIENT[IPFamily.IPV4]


def test_bits_that_others_use_are_told_of(
    routed: Pods, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    ip(routed.node, "rule add fwmark 0x1800/0x1800 lookup 100")
    make(routed.node, IPFamily.IPV4)
    make(routed.node, IPFamily.IPV4, Mark(0x4000, 0x4000))
    told = capsys.readouterr().out + caplog.text
    assert "a routing rule for the mark 0x1800/0x1800" in told
    assert "kube-proxy" in told


@FAMILIES
@pytest.mark.parametrize("guard", [True, False])
def test_what_stands_is_not_written_again(bridged: Pods, family: IPFamily, guard: bool) -> None:
    standing = Standing(family, DEFAULT, guard=guard)
    first = bridged.node.run(partial(standing.make, LocalTraffic(), ()))
    before = bridged.node.shell("nft", "-a", "list", "ruleset")
    assert bridged.node.run(partial(standing.make, LocalTraffic(), ())) == first
    assert bridged.node.shell("nft", "-a", "list", "ruleset") == before
    standing.close()


@FAMILIES
def test_what_is_ours_outlives_a_flush_and_goes_with_us(bridged: Pods, family: IPFamily) -> None:
    bridged.node.run(partial(Standing(family, DEFAULT, guard=False).make, LocalTraffic(), ()))
    standing = Standing(family, DEFAULT)
    bridged.node.run(partial(standing.make, LocalTraffic(), ()))
    before = bridged.node.shell("nft", "-a", "list", "ruleset")
    assert before.count("flags owner") == before.count("table ") == 2  # what an earlier process has left is gone
    bridged.node.shell("nft", "flush", "ruleset")
    assert bridged.node.shell("nft", "-a", "list", "ruleset") == before
    assert bridged.seen(family, Protocol.TCP) == CLIENT[family]
    bridged.node.shell("ip", "link", "del", "cbr0")
    bridged.node.run(partial(standing.make, LocalTraffic(), ()))
    assert bridged.node.shell("nft", "list", "tables").count("table ") == 1
    standing.close()
    assert bridged.node.shell("nft", "list", "tables") == ""


def test_where_the_kernel_refuses_that_is_the_problem(routed: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userproxy.portals.return_path.standing.may_write_rules", lambda: False)
    path = make(routed.node, IPFamily.IPV4)
    assert "CAP_NET_ADMIN" in path.problem
    assert len(path.networks) == 2


class _Lacking:
    """A way to write rules for which the kernel lacks something, until `has` it."""

    announced = True

    def __init__(self, name: str, *, has: bool = False) -> None:
        self.name = name
        self.has = has

    def write(self, mark: Mark, bridges: tuple[PodBridge, ...]) -> str:
        del mark, bridges
        if not self.has:
            raise KernelToolError("no module")
        return ""

    def stands(self) -> bool:
        return True

    def close(self) -> None:
        pass


def test_one_way_serves_where_another_cannot_and_none_is_the_problem(routed: Pods) -> None:
    standing = Standing(IPFamily.IPV4, DEFAULT)
    first, second = _Lacking("nftables"), _Lacking("iptables", has=True)
    standing.ways = (first, second)
    assert routed.node.run(partial(standing.make, LocalTraffic(), ())).problem == ""
    second.has = False
    problem = routed.node.run(partial(standing.make, LocalTraffic(), ())).problem
    assert problem == "nftables: no module; iptables: no module"
    first.has = True
    assert routed.node.run(partial(standing.make, LocalTraffic(), ())).problem == ""


def test_tables_that_are_all_taken_are_the_problem(routed: Pods) -> None:
    ip(routed.node, *(f"route add unreachable 198.51.100.1 table {table}" for table in policy_routing.TABLES))
    assert "all routing tables from 61117 on" in make(routed.node, IPFamily.IPV4).problem


@pytest.mark.parametrize("xtables", [False, True])
def test_a_transparent_socket_of_every_address_takes_nothing_of_others(routed: Pods, xtables: bool) -> None:
    sysctl(routed.node, "net.ipv4.ip_forward", 1)
    standing = Standing(IPFamily.IPV4, DEFAULT, guard=False)
    if xtables:
        standing.ways = standing.ways[1:]
    assert routed.node.run(partial(standing.make, LocalTraffic(), ())).problem == ""
    address = BACKEND[IPFamily.IPV4]
    with (
        closing(routed.backend.run(partial(bound, socket.SOCK_DGRAM, address))) as backend,
        closing(routed.node.run(partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))) as proxy,
        closing(routed.client.run(partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))) as client,
    ):
        proxy.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT, linux/in.h
        proxy.bind(("", backend.getsockname()[1]))
        client.sendto(b"x", backend.getsockname())
        assert backend.recv(1) == b"x"


def test_a_copy_of_what_owns_the_rules_keeps_them(routed: Pods) -> None:
    standing = Standing(IPFamily.IPV4, DEFAULT)
    routed.node.run(partial(standing.make, LocalTraffic(), ()))
    assert standing.owner is not None
    with closing(standing.owner.dup()):
        standing.close()
        assert routed.seen(IPFamily.IPV4, Protocol.TCP) == CLIENT[IPFamily.IPV4]
    assert routed.node.shell("nft", "list", "tables") == ""
