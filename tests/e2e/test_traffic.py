"""From a Pod, from the node and from outside, through every kind of portal, to the right Pods."""

import pytest

from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import fetch, fetch_many

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)]

CLUSTER_IP = ("10.96.0.10", 80)
EXTERNAL_IP = ("203.0.113.5", 80)
LOAD_BALANCER_IP = ("198.51.100.7", 80)
NODE_PORT = 30080

BRIDGE = "10.244.1.1"

WAYS = [
    ("client", CLUSTER_IP),
    ("client", EXTERNAL_IP),
    ("client", LOAD_BALANCER_IP),
    ("client", ("192.0.2.10", NODE_PORT)),
    ("client", ("192.0.2.11", NODE_PORT)),
    ("client", (BRIDGE, NODE_PORT)),
    ("node", CLUSTER_IP),
    ("node", EXTERNAL_IP),
    ("node", LOAD_BALANCER_IP),
    ("node", ("127.0.0.1", NODE_PORT)),
    ("node", ("192.0.2.10", NODE_PORT)),
    ("node", ("192.0.2.11", NODE_PORT)),
    ("node", (BRIDGE, NODE_PORT)),
    ("outside", EXTERNAL_IP),
    ("outside", LOAD_BALANCER_IP),
    ("outside", ("192.0.2.10", NODE_PORT)),
    ("outside", ("192.0.2.11", NODE_PORT)),
]


def serve_web(lab: Lab, affinity: int | None = None) -> None:
    """A Service with every kind of portal; the external IP is one of the node's own, as such IPs often are."""
    lab.node.ip_batch([f"addr add {EXTERNAL_IP[0]}/32 dev eth0", "addr add 192.0.2.11/24 dev eth0"])
    lab.serve_http()
    lab.manifests.service(
        "web",
        ports=[Port(80, "http")],
        cluster_ip=CLUSTER_IP[0],
        node_port=NODE_PORT,
        external_ips=[EXTERNAL_IP[0]],
        load_balancer_ips=[LOAD_BALANCER_IP[0]],
        affinity=affinity,
    )
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    lab.node.start_userproxy()
    lab.node.wait_for_portal(*CLUSTER_IP)


def ways(lab: Lab) -> list[tuple[Host, Address]]:
    """Who can reach which portal; a node of routed Pods has no bridge."""
    bridges = lab.gateways().values()
    return [(host(lab, who), address) for who, address in WAYS if address[0] != BRIDGE or BRIDGE in bridges]


def host(lab: Lab, name: str) -> Host:
    return {"client": lab.client, "node": lab.node, "outside": lab.outside}[name]


def test_every_portal_reaches_every_pod_equally_often(lab: Lab) -> None:
    serve_web(lab)
    for client, address in ways(lab):
        tally = fetch_many(client, address, 300)
        assert not tally.failures, (client.name, address)
        assert sorted(tally.pods) == ["web-1", "web-2", "web-3"], (client.name, address)
        assert all(99 <= count <= 101 for count in tally.pods.values()), (client.name, address, tally.pods)


def test_with_affinity_each_client_address_has_one_pod_for_all_portals(lab: Lab) -> None:
    serve_web(lab, affinity=3600)
    outside = [lab.outside, lab.add_outside("outside-2"), lab.add_outside("outside-3")]
    chosen: set[str] = set()
    for client in (lab.client, *outside):
        pods: set[str] = set()
        for address in (EXTERNAL_IP, LOAD_BALANCER_IP, ("192.0.2.10", NODE_PORT)):
            tally = fetch_many(client, address, 50)
            assert not tally.failures
            pods |= tally.pods.keys()
        assert len(pods) == 1, (client.name, pods)
        chosen |= pods
    assert len(chosen) == 3  # clients are spread all the same


def test_affinity_ends_with_its_edited_timeout(lab: Lab) -> None:
    serve_web(lab, affinity=3600)
    first = fetch(lab.client, CLUSTER_IP).pod
    assert {fetch(lab.client, CLUSTER_IP).pod for _ in range(10)} == {first}
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip=CLUSTER_IP[0], affinity=1)
    lab.node.wait_for_no_portal(port=NODE_PORT)  # the edit that comes with it has arrived
    lab.node.run(["sleep", "1.1"])  # not a wait for anything: this client has to stay away longer than its timeout
    assert fetch(lab.client, CLUSTER_IP).pod != first


def test_an_external_ip_that_only_routes_to_the_node(lab: Lab) -> None:
    serve_web(lab)
    lab.manifests.service(
        "web", ports=[Port(80, "http")], cluster_ip=CLUSTER_IP[0], external_ips=["203.0.113.99"], node_port=NODE_PORT
    )
    lab.node.wait_for_portal("203.0.113.99")
    tally = fetch_many(lab.outside, ("203.0.113.99", 80), 30)
    assert not tally.failures
    assert len(tally.pods) == 3
