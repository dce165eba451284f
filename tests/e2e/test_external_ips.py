"""External IPs that no node has: captured from everybody while a Service claims them, and from nobody otherwise."""

from pathlib import Path

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask
from tests.lab.manifests import Port
from userproxy.demo import pods
from userproxy.demo.hosts import Address, Host
from userproxy.demo.programs import Program, wait_for_port
from userproxy.demo.traffic import fetch
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_IPS = {IPFamily.IPV4: "10.96.0.10", IPFamily.IPV6: "fd00:10:96::10"}
EXTERNAL_IPS = {IPFamily.IPV4: "203.0.113.50", IPFamily.IPV6: "2001:db8:e::50"}
REPLIES_GO_TO = {
    IPFamily.IPV4: ("192.0.2.0/24 dev eth0", "10.244.0.0/16 via 192.0.2.10"),
    IPFamily.IPV6: ("2001:db8::/64 dev eth0 metric 1", "fd00:10:244::/48 via 2001:db8::10"),
}
PORTS = [Port(8080, "tcp"), Port(8080, "udp", "UDP")]


def start(lab: Lab) -> Host:
    """A host outside that has the external IPs and answers on them, and a node whose packets to them leave it."""
    if Path("/proc/sys/net/bridge").exists():  # bridged Pods' packets pass iptables on the bridge already
        for name in ("iptables", "ip6tables"):
            lab.node.sysctl(f"net.bridge.bridge-nf-call-{name}", 1)
    real = lab.add_outside("real")
    real.ip_batch([f"addr add {address} dev lo" for address in EXTERNAL_IPS.values()])
    hops = {IPFamily.IPV4: real.address, IPFamily.IPV6: real.address6}
    lab.node.ip_batch([f"route add {EXTERNAL_IPS[family]} via {hop}" for family, hop in hops.items()])
    # What listens on every address answers datagrams from the address of the route.
    for family, networks in REPLIES_GO_TO.items():
        source = f"src {EXTERNAL_IPS[family]}"
        real.ip_batch([f"route replace {network} {source}" for network in networks])
    lab.serve_http()
    lab.enter(Program(real, pods.command("real")))
    wait_for_port(real, 8080)
    lab.node.start_userproxy(*QUICK)
    return real


def claim(lab: Lab, *external_ips: str) -> None:
    lab.manifests.service("web", ports=PORTS, cluster_ip=[*CLUSTER_IPS.values()], external_ips=external_ips)
    lab.settle(*FAMILIES)


def addresses() -> list[Address]:
    return [(EXTERNAL_IPS[family], 8080) for family in FAMILIES]


def test_captured_from_everybody_as_long_as_a_service_claims_it(lab: Lab) -> None:
    """Kubernetes' spec: connect to a service via ExternalIP when the external IP is not assigned to a node."""
    start(lab)
    lab.manifests.slices("web", lab.pods[:1], ports=PORTS)
    everybody: list[Host] = [lab.client, lab.pods[0], lab.pods[1], lab.node]
    claim(lab, *EXTERNAL_IPS.values())
    for address in addresses():
        for host in (*everybody, lab.outside):
            assert fetch(host, address).pod == "web-1", (host.name, address)
            assert ask(host, address).pod == "web-1", (host.name, address)
    claim(lab)
    for address in addresses():
        for host in everybody:
            assert fetch(host, address).pod == "real", (host.name, address)
            assert ask(host, address).pod == "real", (host.name, address)


def test_as_an_endpoint_it_is_the_service_that_claims_it_and_never_its_own(lab: Lab) -> None:
    start(lab)
    lab.manifests.slices("web", lab.pods[:1], ports=PORTS)
    lab.manifests.service("other", ports=PORTS, cluster_ip=["10.96.0.20", "fd00:10:96::20"])
    for family in FAMILIES:
        lab.manifests.slice("other", [EXTERNAL_IPS[family]], ports=PORTS, family=family)
    claim(lab, *EXTERNAL_IPS.values())
    for ip in ("10.96.0.20", "fd00:10:96::20"):
        assert fetch(lab.client, (ip, 8080)).pod == "web-1"
        assert ask(lab.client, (ip, 8080)).pod == "web-1"
    lab.manifests.slices("web", [], ports=PORTS)
    for family in FAMILIES:
        lab.manifests.slice("web", [EXTERNAL_IPS[family]], ports=PORTS, family=family)
    lab.settle(*FAMILIES)
    for address in addresses():
        with pytest.raises(ConnectionError):  # its own endpoint would lead back to it
            fetch(lab.client, address)
    claim(lab)
    for ip in CLUSTER_IPS.values():
        assert fetch(lab.client, (ip, 8080)).pod == "real"


def test_a_claim_of_somebody_s_address_takes_the_claimed_port_alone(lab: Lab) -> None:
    """CVE-2020-8554: authors of Services may name anybody's address. What they do not claim stays his."""
    lab.serve_http()
    lab.manifests.service("web", ports=PORTS, cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods[:1], ports=PORTS)
    claimed = [lab.pods[0].address, lab.client.address, lab.outside.address, "255.255.255.255", "192.0.2.255"]
    lab.manifests.service("greedy", ports=[Port(99, "tcp")], cluster_ip="10.96.0.20", external_ips=claimed)
    lab.manifests.slice("greedy", lab.pods[1:2], ports=[Port(99, "tcp")])
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    for host in (lab.client, lab.node, lab.pods[1]):
        assert fetch(host, (lab.pods[0].address, 99)).pod == "web-2", "as with kube-proxy"
        assert fetch(host, (lab.pods[0].address, 8080)).pod == "web-1", "not through a Service"
        assert fetch(host, ("10.96.0.10", 8080)).pod == "web-1"
        assert ask(host, ("10.96.0.10", 8080)).pod == "web-1"
