"""Beside the rules of a kube-proxy: they are told of, and lead nobody away from us."""

import socket
from collections.abc import Sequence
from contextlib import closing, suppress

import pytest
from structlog.testing import capture_logs

from tests.portals.conftest import Network, shell
from tests.portals.examples import EVERYWHERE, NODE_IPS, led_to
from tests.portals.netlink.test_conntrack import drop_capabilities
from userproxy.model import IPFamily, Portal, PortalKind, Protocol, ServicePortName
from userproxy.portals.interface import DriverOptions
from userproxy.portals.iptables.driver import IptablesDriver
from userproxy.portals.iptables.other_proxies import OtherProxies
from userproxy.portals.iptables.parser import parse_save
from userproxy.portals.iptables.variant import Tools, legacy_tables

KUBE_PROXY = """\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-EXT-AAAAAAAAAAAAAAAA - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-EXT-AAAAAAAAAAAAAAAA
-A KUBE-EXT-AAAAAAAAAAAAAAAA -p tcp -j DNAT --to-destination 192.0.2.99:8080
COMMIT
"""
"""What kube-proxy leaves of a NodePort Service whose one endpoint, 192.0.2.99, is no more."""

KUBE_PROXY_AGAIN = """\
*nat
-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
COMMIT
"""

NODE_PORT = Portal(PortalKind.NODE_PORT, "", 30080)
NAME = ServicePortName("default", "web", "", Protocol.TCP)
WARNING = "There are rules of kube-proxy"


def as_of(tools: Tools, text: str) -> str:
    return text.replace("192.0.2.99:8080", "[2001:db8::99]:8080") if tools.family is IPFamily.IPV6 else text


def restore(node: Network, tools: Tools, text: str) -> None:
    node.shell(tools.restore, "--noflush", text=as_of(tools, text))


def synced(node: Network, tools: Tools, local_port: int, *, shared: bool, between: Sequence[str] = ()) -> None:
    """One sync that verifies, and another one after each text that somebody else writes."""

    async def scenario() -> None:
        driver = IptablesDriver(DriverOptions(tools.family, EVERYWHERE[tools.family], shared))
        try:
            await driver.sync([led_to(NAME, local_port, [NODE_PORT])])
            for text in between:
                if text:
                    shell(tools.restore, "--noflush", text=as_of(tools, text))
                await driver.sync([led_to(NAME, local_port, [NODE_PORT])])
        finally:
            await driver.close()

    node.run_loop(scenario)


def jumps(node: Network, tools: Tools, chain: str) -> list[str]:
    return [rule.rpartition(" ")[2] for rule in parse_save(node.shell(tools.save, "-t", "nat"))["nat"][chain]]


def reached(frm: Network, tools: Tools) -> bool:
    """Whether a client gets through to the node port."""
    kind = socket.AF_INET if tools.family is IPFamily.IPV4 else socket.AF_INET6
    with closing(frm.run(lambda: socket.socket(kind, socket.SOCK_STREAM))) as asking:
        asking.settimeout(1.0)
        with suppress(OSError):
            asking.connect((NODE_IPS[tools.family], 30080))
            return True
    return False


@pytest.fixture
def listener(node: Network, tools: Tools) -> socket.socket:
    kind = socket.AF_INET if tools.family is IPFamily.IPV4 else socket.AF_INET6
    made = node.run(lambda: socket.socket(kind, socket.SOCK_STREAM))
    made.bind((EVERYWHERE[tools.family], 0))
    made.listen()
    return made


@pytest.fixture
def neighbour(node: Network, outside: Network, tools: Tools) -> Network:
    """A host at the other end of the node's link."""
    node.shell("ip", "link", "set", "far0", "netns", str(outside.thread_id))
    outside.shell("ip", "address", "add", "192.0.2.1/24", "dev", "far0")
    outside.shell("ip", "address", "add", "2001:db8::1/64", "dev", "far0", "nodad")
    outside.shell("ip", "link", "set", "far0", "up")
    return outside


def test_a_node_port_is_ours_beside_what_kube_proxy_left(
    node: Network, neighbour: Network, tools: Tools, listener: socket.socket
) -> None:
    restore(node, tools, KUBE_PROXY)
    with closing(listener):
        synced(node, tools, listener.getsockname()[1], shared=False)
        assert [reached(neighbour, tools), reached(node, tools)] == [True, True]
    for chain, ours in (("PREROUTING", "CONTAINER"), ("OUTPUT", "HOST")):
        assert jumps(node, tools, chain) == [f"KUBE-PORTALS-{ours}", f"KUBE-NODEPORT-{ours}", "KUBE-SERVICES"]


def test_a_kube_proxy_that_comes_later_is_put_behind_us_once(
    node: Network, tools: Tools, listener: socket.socket
) -> None:
    with closing(listener):
        synced(node, tools, 40000, shared=False, between=[KUBE_PROXY, KUBE_PROXY_AGAIN])
    for chain, ours in (("PREROUTING", "CONTAINER"), ("OUTPUT", "HOST")):
        assert jumps(node, tools, chain) == [f"KUBE-PORTALS-{ours}", f"KUBE-NODEPORT-{ours}", "KUBE-SERVICES"]


def test_on_a_shared_node_kube_proxy_keeps_its_place(node: Network, tools: Tools) -> None:
    restore(node, tools, KUBE_PROXY)
    with capture_logs() as logs:
        synced(node, tools, 40000, shared=True, between=[KUBE_PROXY_AGAIN])
    assert jumps(node, tools, "OUTPUT") == ["KUBE-SERVICES", "KUBE-PORTALS-HOST", "KUBE-NODEPORT-HOST"]
    assert not [record for record in logs if WARNING in record["event"]]


def test_it_is_said_once_whose_rules_there_are_and_once_that_they_are_gone(node: Network, tools: Tools) -> None:
    restore(node, tools, KUBE_PROXY)
    chains = ("KUBE-SERVICES", "KUBE-NODEPORTS", "PREROUTING", "OUTPUT")
    flushed = "".join(f"-F {chain}\n" for chain in chains)
    gone = f"*nat\n{flushed}-X KUBE-NODEPORTS\n-X KUBE-SERVICES\nCOMMIT\n"
    with capture_logs() as logs:
        synced(node, tools, 40000, shared=False, between=["", "", gone])
    (told,) = [record for record in logs if WARNING in record["event"]]
    assert told["log_level"] == "warning"
    assert "`kube-proxy --cleanup`" in told["event"]
    variant = f"iptables-{tools.variant}"
    assert told["found"] == [f"{variant}: chain KUBE-SERVICES", f"{variant}: chain KUBE-NODEPORTS"]
    assert sum(record["event"] == "The rules of kube-proxy are gone" for record in logs) == 1


def test_the_other_variant_and_nftables_are_looked_at_and_nothing_is_made(node: Network, tools: Tools) -> None:
    others = OtherProxies(tools.family)
    before = node.run(lambda: legacy_tables(tools.family))
    with capture_logs() as logs:
        node.run(lambda: others.look(again=False))
        assert logs == []
        node.shell("nft", "add", "table", "ip6" if tools.family is IPFamily.IPV6 else "ip", "kube-proxy")
        node.run(lambda: others.look(again=False))
        assert logs == [], "looking was not asked for"
        node.run(lambda: others.look(again=True))
    assert [record["found"] for record in logs] == [["nftables: table kube-proxy"]]
    assert node.run(lambda: legacy_tables(tools.family)) == before


def test_where_it_cannot_be_seen_it_goes_on(network: Network) -> None:
    network.run(drop_capabilities)
    with capture_logs() as logs:
        network.run(lambda: OtherProxies(IPFamily.IPV4).look(again=True))
    assert {record["log_level"] for record in logs} <= {"debug"}
