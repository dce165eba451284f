"""Links, addresses and settings of the network."""

import pytest

from tests.doctor.conftest import found, only, results, set_sysctl
from tests.lab.lacking import without_netfilter
from tests.portals.conftest import Network, with_addresses
from userproxy.config import PortalMode, Settings
from userproxy.doctor import network as checks
from userproxy.doctor.findings import Result


@pytest.fixture
def node(network: Network) -> Network:
    return with_addresses(network)


def test_the_nodes_address(network: Network) -> None:
    only(found(network, checks.node_address), Result.FAIL)
    only(found(network, checks.node_address, Settings(portals=PortalMode.NONE)), Result.OK)
    only(found(network, checks.node_address, Settings(bind_address="192.0.2.77")), Result.OK)
    with_addresses(network)
    assert [each.text for each in found(network, checks.node_address)] == [
        "IPv4: 192.0.2.10 is the node's address",
        "IPv6: 2001:db8::10 is the node's address",
    ]


def test_links_of_pods_without_addresses_are_named(node: Network) -> None:
    node.shell("ip", "link", "set", "lan0", "up")
    assert "lan0 have no address" in found(node, checks.links_without_address)[0].text
    node.shell("ip", "link", "set", "lan0", "down")
    node.shell("ip", "link", "add", "cali1", "type", "veth", "peer", "name", "pod1")
    assert "every link" in found(node, checks.links_without_address)[0].text
    for name in ("cali1", "pod1"):
        node.shell("ip", "link", "set", name, "up")
    assert "cali1" in found(node, checks.links_without_address)[0].text


def test_a_node_that_does_not_forward(node: Network) -> None:
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        set_sysctl(node, name, 0)
    assert results(found(node, checks.forwarding)) == [Result.WARN] * 2
    set_sysctl(node, "ipv4/ip_forward", 1)
    assert only(found(node, checks.forwarding), Result.WARN).advice.startswith(
        "sysctl -w net.ipv6.conf.all.forwarding=1"
    )
    set_sysctl(node, "ipv6/conf/all/forwarding", 1)
    assert results(found(node, checks.forwarding)) == [Result.OK] * 2


def test_strict_filters_of_sources_matter_with_several_ways_out(node: Network) -> None:
    set_sysctl(node, "ipv4/conf/all/rp_filter", 0)
    set_sysctl(node, "ipv4/conf/eth0/rp_filter", 1)
    assert "strict on eth0" in only(found(node, checks.reverse_path), Result.OK).text
    node.shell("ip", "link", "add", "eth1", "type", "bridge")
    node.shell("ip", "address", "add", "198.51.100.10/24", "dev", "eth1")
    node.shell("ip", "link", "set", "eth1", "up")
    node.shell("ip", "route", "add", "default", "via", "198.51.100.1", "metric", "500")
    assert "strict on eth0" in only(found(node, checks.reverse_path), Result.WARN).text
    set_sysctl(node, "ipv4/conf/eth0/rp_filter", 2)
    only(found(node, checks.reverse_path), Result.OK)


def test_localhost_that_neighbours_can_reach(node: Network) -> None:
    only(found(node, checks.localnet), Result.OK)
    set_sysctl(node, "ipv4/conf/all/route_localnet", 1)
    assert "eth0" in only(found(node, checks.localnet), Result.WARN).text


def test_br_netfilter_matters_beside_kube_proxy(network: Network) -> None:
    shared = Settings(proxy_name="userproxy")
    assert only(found(network, checks.bridges, shared), Result.OK).text == "there is no bridge"
    with_addresses(network)
    network.shell("ip", "link", "set", "lan0", "up")
    for value, result in ((0, Result.WARN), (1, Result.OK)):
        set_sysctl(network, "bridge/bridge-nf-call-iptables", value)
        only(found(network, checks.bridges, shared), result)
        only(found(network, checks.bridges), Result.OK)


def test_who_answers_arp_matters_with_the_local_driver(node: Network) -> None:
    local = Settings(portals=PortalMode.LOCAL)
    assert "arp_ignore=1" in only(found(node, checks.arp, local), Result.WARN).advice
    only(found(node, checks.arp), Result.OK)
    set_sysctl(node, "ipv4/conf/all/arp_ignore", 1)
    only(found(node, checks.arp, local), Result.OK)


def test_auto_may_come_to_the_local_driver(node: Network) -> None:
    node.run(without_netfilter)
    only(found(node, checks.arp), Result.WARN)
