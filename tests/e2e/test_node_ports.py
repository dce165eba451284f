"""Node ports: on which addresses they are served, and who else wants them."""

import socket

import pytest

from tests.lab.cluster import Lab
from tests.lab.datagrams import ask
from tests.lab.manifests import Port
from tests.lab.probes import ACCEPTED, REFUSED, try_to_connect
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_IPS = ("10.96.0.10", "fd00:10:96::10")
NODE_PORT = 30080


def start(lab: Lab, *flags: str) -> None:
    """A Service with a node port, and a node with a second address of each family on its only interface."""
    lab.serve_http()
    lab.node.ip_batch(["addr add 192.0.2.11/24 dev eth0", "addr add 2001:db8::11/64 dev eth0"])
    lab.manifests.node(lab.node)
    lab.manifests.service("web", cluster_ip=CLUSTER_IPS, node_port=NODE_PORT)
    lab.manifests.slices("web", lab.pods)
    lab.node.start_userproxy(*flags)
    lab.settle(*FAMILIES)


FIRST, SECOND, BRIDGE = ("192.0.2.10", "192.0.2.11", "10.244.1.1")
FIRST6, SECOND6, BRIDGE6 = ("2001:db8::10", "2001:db8::11", "fd00:10:244:1::1")

ADDRESSES = {
    # --nodeport-addresses             served                                   not served
    "":                               ({FIRST, SECOND, BRIDGE, FIRST6, SECOND6, BRIDGE6}, set()),
    "192.0.2.11/32":                  ({SECOND, FIRST6, SECOND6, BRIDGE6},     {FIRST, BRIDGE}),
    "192.0.2.8/29,2001:db8::11/128":  ({FIRST, SECOND, SECOND6},               {BRIDGE, FIRST6, BRIDGE6}),
    "fd00::/8":                       ({FIRST, SECOND, BRIDGE, BRIDGE6},       {FIRST6, SECOND6}),
    "172.16.0.0/12":                  ({FIRST6, SECOND6, BRIDGE6},             {FIRST, SECOND, BRIDGE}),
    "primary":                        ({FIRST, FIRST6},                        {SECOND, BRIDGE, SECOND6, BRIDGE6}),
}  # fmt: skip
"""A family without a network of its own has all its addresses, as with kube-proxy."""


def no_bridge(lab: Lab) -> set[str]:
    """The addresses that the node has not because its Pods are routed."""
    return {BRIDGE, BRIDGE6} - set(lab.gateways().values())


@pytest.mark.parametrize("networks", ADDRESSES)
def test_served_on_the_addresses_that_were_asked_for(lab: Lab, networks: str) -> None:
    start(lab, *(["--nodeport-addresses", networks] if networks else []))
    served, others = (addresses - no_bridge(lab) for addresses in ADDRESSES[networks])
    for address in served:
        assert fetch(lab.client, (address, NODE_PORT)).pod, address
        assert fetch(lab.node, (address, NODE_PORT)).pod, address
        if address not in (BRIDGE, BRIDGE6):  # which outside hosts have no route to
            assert fetch(lab.outside, (address, NODE_PORT)).pod, address
    for address in others:
        assert try_to_connect(lab.client, (address, NODE_PORT)) == REFUSED, address
        assert try_to_connect(lab.node, (address, NODE_PORT)) == REFUSED, address


def test_an_address_that_comes_later_is_served_from_the_next_sync_on(lab: Lab) -> None:
    start(lab, "--nodeport-addresses", "192.0.2.64/26", "--iptables-sync-period", "1s")
    assert try_to_connect(lab.outside, (FIRST, NODE_PORT)) == REFUSED
    lab.node.ip_batch(["addr add 192.0.2.77/24 dev eth0"])
    eventually(lambda: fetch(lab.outside, ("192.0.2.77", NODE_PORT), 1.0).pod, 30, "the new address is served")
    assert try_to_connect(lab.outside, (FIRST, NODE_PORT)) == REFUSED


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_loopback_is_served_if_wanted(lab: Lab, wanted: str) -> None:
    start(lab, f"--iptables-localhost-nodeports={wanted}")
    expected = ACCEPTED if wanted == "true" else REFUSED
    assert try_to_connect(lab.node, ("127.0.0.1", NODE_PORT)) == expected
    assert try_to_connect(lab.node, (FIRST, NODE_PORT)) == ACCEPTED
    if wanted == "true":
        assert fetch(lab.node, ("127.0.0.1", NODE_PORT)).pod


def test_one_number_for_both_protocols_is_no_conflict(lab: Lab) -> None:
    start(lab)
    lab.manifests.service("dns", ports=[Port(53, protocol="UDP", node_port=NODE_PORT)], cluster_ip="10.96.0.53")
    lab.manifests.slice("dns", lab.pods[:1], ports=[Port(53, protocol="UDP")])
    lab.settle(*FAMILIES)
    assert ask(lab.outside, (FIRST, NODE_PORT)).pod == "web-1"
    assert fetch(lab.outside, (FIRST, NODE_PORT)).pod
    assert not [record for record in lab.node.proxies[0].records if "not served" in record["event"]]


def test_two_services_that_want_one_node_port_are_both_named(lab: Lab) -> None:
    lab.serve_http()
    for protocol, reach in (("TCP", fetch), ("UDP", ask)):
        early, late = f"early-{protocol.lower()}", f"late-{protocol.lower()}"
        port = [Port(80, protocol=protocol, node_port=NODE_PORT)]
        for name, number, created in ((early, 1, "2026-01-01T00:00:00Z"), (late, 2, "2026-06-01T00:00:00Z")):
            addresses = [f"10.96.0.{number}", f"fd00:10:96::{number}"]
            lab.manifests.service(name, ports=port, cluster_ip=addresses, created=created)
            lab.manifests.slices(name, [lab.pods[number]], ports=port)
        proxy = lab.node.proxies[0] if lab.node.proxies else lab.node.start_userproxy()
        lab.settle(*FAMILIES)
        said = proxy.wait_log(f"default/{late}: node port {NODE_PORT}")
        assert f"default/{early} has it" in said["event"]
        for address in (FIRST, FIRST6):
            assert reach(lab.outside, (address, NODE_PORT)).pod == "web-2"
        lab.manifests.remove(lab.manifests.directory / f"service-default-{early}.yaml")
        eventually(lambda: reach(lab.outside, (FIRST, NODE_PORT), 1.0).pod == "web-3", 30, f"{late} has it")  # noqa: B023
        lab.manifests.remove(lab.manifests.directory / f"service-default-{late}.yaml")


def test_a_node_port_is_held_against_other_programs(lab: Lab) -> None:
    start(lab)
    for address in (FIRST, FIRST6):
        with pytest.raises(OSError, match="in use"):
            lab.node.listen(NODE_PORT, address)
    lab.manifests.service("web", cluster_ip=CLUSTER_IPS)
    lab.settle(*FAMILIES)
    for address in (FIRST, FIRST6):
        eventually(lambda: _may_listen(lab, address, NODE_PORT), 30, "the port is free again")  # noqa: B023


def test_portals_on_addresses_of_the_node_give_way_to_its_programs(lab: Lab) -> None:
    """Nothing is bound for them, so a program can always start; and then it has its port."""
    lab.serve_http()
    external = ["203.0.113.5", "2001:db8:e::5"]
    balanced = ["198.51.100.7", "2001:db8:e::7"]
    own = [*external, *balanced]
    lab.node.own(*own)
    lab.manifests.slices("web", lab.pods)
    with lab.node.listen(80, external[0]), lab.node.listen(80, balanced[1]):
        lab.manifests.service("web", cluster_ip=CLUSTER_IPS, external_ips=external, load_balancer_ips=balanced)
        proxy = lab.node.start_userproxy("--iptables-sync-period", "1s")
        lab.settle(*FAMILIES)
        for portal in ("203.0.113.5:80", "[2001:db8:e::7]:80"):
            said = proxy.wait_log(portal)
            assert said["level"] == "warning"
            assert "default/web" in said["event"]
        for address in (external[1], balanced[0]):
            assert fetch(lab.outside, (address, 80)).pod
    for address in own:
        eventually(lambda: fetch(lab.outside, (address, 80), 1.0).pod, 30, f"{address} is served")  # noqa: B023
        with lab.node.listen(80, address):
            eventually(lambda: _connects_to_the_node(lab, address, 80), 30, f"{address} is the program's")  # noqa: B023


def test_a_service_cannot_have_the_port_of_kubelet(lab: Lab) -> None:
    """An external IP on the node's address and port 10250: kubelet can stop and start, and is reached all the while."""
    lab.serve_http()
    hosts = (lab.node.address, lab.node.address6)
    ports = [Port(10250, "stolen"), Port(80, "http")]
    lab.manifests.slices("web", lab.pods, ports=ports)
    lab.manifests.service("web", cluster_ip=CLUSTER_IPS, ports=ports, external_ips=hosts)
    kubelet = [lab.node.listen(10250, host) for host in hosts]
    proxy = lab.node.start_userproxy("--iptables-sync-period", "1s")
    for host in hosts:
        eventually(lambda: fetch(lab.outside, (host, 80), 1.0).pod, 30, f"{host} is served")  # noqa: B023
        assert _connects_to_the_node(lab, host, 10250)
    for server in kubelet:
        server.close()
    lab.manifests.service("other", cluster_ip="10.96.0.99")  # a full sync, while nobody listens
    lab.settle(*FAMILIES)
    for host in hosts:
        with pytest.raises(ConnectionRefusedError):
            lab.outside.connect((host, 10250))
        with lab.node.listen(10250, host):
            assert _connects_to_the_node(lab, host, 10250)
        assert fetch(lab.outside, (host, 80)).pod
    said = proxy.wait_log(f"{lab.node.address}:10250")
    assert "default/web:stolen" in said["event"]
    assert "--reserved-node-ports" in said["event"]
    assert fetch(lab.client, (CLUSTER_IPS[0], 10250)).pod


def test_which_ports_no_service_may_have_is_for_the_operator_to_say(lab: Lab) -> None:
    lab.serve_http()
    ports = [Port(10250, "ten"), Port(9100, "nine")]
    lab.manifests.slice("web", lab.pods, ports=ports)
    lab.manifests.service("web", cluster_ip=CLUSTER_IPS[0], ports=ports, external_ips=[lab.node.address])
    proxy = lab.node.start_userproxy("--reserved-node-ports", "22,9100-9101")
    lab.settle()
    assert fetch(lab.outside, (lab.node.address, 10250)).pod
    assert "default/web:nine" in proxy.wait_log("--reserved-node-ports")["event"]
    with pytest.raises(ConnectionRefusedError):
        lab.outside.connect((lab.node.address, 9100))


def _connects_to_the_node(lab: Lab, address: str, port: int) -> bool:
    """Whether a program of the node, which says nothing, has the connection: a Pod would answer."""
    with lab.outside.connect((address, port), 1.0) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.settimeout(0.3)
        try:
            return client.recv(1) == b"never"
        except TimeoutError:
            return True


def _may_listen(lab: Lab, address: str, port: int) -> bool:
    with lab.node.listen(port, address) as server:
        return isinstance(server, socket.socket)
