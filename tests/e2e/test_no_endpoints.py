"""Services that nobody can serve: refused at once, or dropped where only a policy stands in the way."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask
from tests.lab.manifests import Backend, Port
from tests.lab.probes import DROPPED, SILENCE, refuses_datagrams, refuses_the_first_syn, try_to_connect
from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
PORTS = [Port(80, "tcp"), Port(80, "udp", "UDP")]
NODE_PORTS = [Port(80, "tcp", node_port=30080), Port(80, "udp", "UDP", node_port=30080)]
CLUSTER_IPS = {IPFamily.IPV4: "10.96.0.10", IPFamily.IPV6: "fd00:10:96::10"}
EXTERNAL_IPS = {IPFamily.IPV4: "203.0.113.5", IPFamily.IPV6: "2001:db8:e::5"}
LOAD_BALANCER_IPS = {IPFamily.IPV4: "198.51.100.7", IPFamily.IPV6: "2001:db8:e::7"}


def start(lab: Lab, *flags: str, local: bool = False) -> None:
    """A Service on every kind of portal, without slices yet, and userproxy."""
    lab.serve_http()
    lab.node.own(*EXTERNAL_IPS.values())
    lab.node.sysctl("net.ipv4.icmp_ratelimit", 0)  # else it has six messages for a client, and then one a second
    lab.node.sysctl("net.ipv6.icmp.ratelimit", 0)
    lab.manifests.service(
        "web",
        ports=NODE_PORTS,
        cluster_ip=[*CLUSTER_IPS.values()],
        external_ips=[*EXTERNAL_IPS.values()],
        load_balancer_ips=[*LOAD_BALANCER_IPS.values()],
        internal_policy="Local" if local else "Cluster",
        external_policy="Local" if local else "Cluster",
    )
    lab.node.start_userproxy(*QUICK, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48", *flags)


def ways(lab: Lab, family: IPFamily) -> list[tuple[Host, Address]]:
    node = lab.node.address if family is IPFamily.IPV4 else lab.node.address6
    external = [(EXTERNAL_IPS[family], 80), (LOAD_BALANCER_IPS[family], 80), (node, 30080)]
    everywhere = [(CLUSTER_IPS[family], 80), *external]
    return [
        *((lab.client, address) for address in everywhere),
        *((lab.node, address) for address in everywhere),
        *((lab.outside, address) for address in external),
    ]


def test_refused_at_once_and_served_as_soon_as_an_endpoint_comes(lab: Lab) -> None:
    start(lab)
    lab.settle(*FAMILIES)
    every_way = [way for family in FAMILIES for way in ways(lab, family)]

    def all_refused() -> None:
        for host, address in every_way:
            assert refuses_the_first_syn(host, address), (host.name, address)
            assert refuses_datagrams(host, address), (host.name, address)

    all_refused()
    lab.manifests.slices("web", [Backend(lab.pods[0], ready=False, serving=False)], ports=PORTS)
    lab.settle(*FAMILIES)
    all_refused()
    lab.manifests.slices("web", lab.pods[:1], ports=PORTS)
    lab.settle(*FAMILIES)
    for host, address in every_way:
        assert fetch(host, address).pod == "web-1", (host.name, address)
        assert ask(host, address).pod == "web-1", (host.name, address)
    lab.manifests.slices("web", [], ports=PORTS)
    lab.settle(*FAMILIES)
    all_refused()


def test_refused_at_once_however_often(lab: Lab) -> None:
    """Kernels limit the ICMP messages to one client (icmp(7)), so these alone would leave some of them waiting."""
    lab.manifests.service("web", cluster_ip=[*CLUSTER_IPS.values()], node_port=30080)
    lab.node.start_userproxy(*QUICK)
    lab.settle(*FAMILIES)
    for host, address in (
        (lab.client, (CLUSTER_IPS[IPFamily.IPV4], 80)),
        (lab.client, (CLUSTER_IPS[IPFamily.IPV6], 80)),
        (lab.outside, (lab.node.address, 30080)),
        (lab.outside, (lab.node.address6, 30080)),
    ):
        assert all(refuses_the_first_syn(host, address) for _ in range(20)), (host.name, address)


def test_dropped_where_only_the_policy_keeps_the_endpoint_away(lab: Lab) -> None:
    lab.add_second_node(pods=1)
    start(lab, local=True)
    lab.manifests.slices("web", lab.pods[-1:], ports=PORTS)
    lab.settle(*FAMILIES)
    nodes = (lab.node.address, lab.node.address6)
    # An internal policy is for everybody, an external one for those who come from elsewhere.
    kept_out: list[tuple[Host, Address]] = [(lab.client, (CLUSTER_IPS[family], 80)) for family in FAMILIES]
    kept_out += [(lab.outside, (node, 30080)) for node in nodes]

    def outcomes(way: tuple[Host, Address]) -> tuple[str, bool]:
        try:
            ask(*way, SILENCE)
        except TimeoutError:
            return try_to_connect(*way), True
        return try_to_connect(*way), False

    with ThreadPoolExecutor(len(kept_out)) as threads:
        assert list(threads.map(outcomes, kept_out)) == [(DROPPED, True)] * 4
    for node in nodes:
        for host in (lab.client, lab.node):
            assert fetch(host, (node, 30080)).pod == "far-1"
            assert ask(host, (node, 30080)).pod == "far-1"


def test_without_portals_the_local_port_resets(lab: Lab) -> None:
    """No rule can refuse for it: the connection is accepted and reset, which a client takes for a failure as well."""
    lab.serve_http()
    lab.manifests.service("web", cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods[:1])
    proxy = lab.node.start_userproxy(*QUICK, "--portals", "none")
    record = proxy.wait_log("Service port reachable")
    assert "10.96.0.10" in record["instead_of"]
    address = ("127.0.0.1", int(record["address"].rpartition(":")[2]))
    assert fetch(lab.node, address).pod == "web-1"
    lab.manifests.slice("web", [])

    def fails() -> bool:
        try:
            fetch(lab.node, address, timeout=2.0)
        except ConnectionError:
            return True
        return False

    eventually(fails, 30, "clients fail at once")
    lab.manifests.slice("web", lab.pods[1:2])
    eventually(lambda: fetch(lab.node, address).pod == "web-2", 30, "the new endpoint serves")
