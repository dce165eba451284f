"""What four of Kubernetes' own end-to-end specs about source addresses ask, with userproxy on every node.

The specs are in test/e2e/network of Kubernetes, in service.go and loadbalancer.go.
"""

import pytest

from tests.lab.cluster import QUICK, Lab, LabNode
from tests.lab.manifests import Policy
from tests.lab.probes import DROPPED, REFUSED, get, try_to_connect
from userproxy.demo.hosts import Host
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_IPS = {IPFamily.IPV4: "10.96.0.10", IPFamily.IPV6: "fd00:10:96::10"}
LOAD_BALANCER_IPS = {IPFamily.IPV4: "198.51.100.7", IPFamily.IPV6: "2001:db8:e::7"}
NODE_PORT, HEALTH_CHECK_PORT = 30080, 32000


def address_of(host: Host, family: IPFamily) -> str:
    return host.address6 if family is IPFamily.IPV6 else host.address


def nodes_of(lab: Lab) -> list[LabNode]:
    return [node for node in lab.network.nodes if isinstance(node, LabNode)]


def serve(lab: Lab, *backends: str, policy: Policy = "Cluster", health_check: bool = False) -> None:
    """A Service with everything, at these Pods."""
    lab.manifests.service(
        "web",
        cluster_ip=list(CLUSTER_IPS.values()),
        load_balancer_ips=list(LOAD_BALANCER_IPS.values()),
        node_port=NODE_PORT,
        external_policy=policy,
        health_check_node_port=HEALTH_CHECK_PORT if health_check else 0,
    )
    lab.manifests.slices("web", [pod for pod in lab.pods if pod.name in backends])


def start(lab: Lab) -> None:
    """A proxy on each node."""
    for node in nodes_of(lab):
        node.start_userproxy(*QUICK, "--detect-local-mode", "NodeCIDR")
    lab.settle(*FAMILIES)


@pytest.fixture
def clients(lab: Lab) -> list[Host]:
    """A Pod on each of two nodes, to ask from."""
    far = lab.add_second_node(pods=1)
    lab.serve_http()
    return [lab.client, lab.add_pod("far-client", far)]


def test_source_pod_ip_is_preserved_for_traffic_through_a_cluster_ip(lab: Lab, clients: list[Host]) -> None:
    """ "should preserve source pod IP for traffic thru service cluster IP" """
    serve(lab, "web-1")
    start(lab)
    for family in FAMILIES:
        for client in clients:
            answer = fetch(client, (CLUSTER_IPS[family], 80))
            assert (answer.pod, answer.client_ip) == ("web-1", address_of(client, family))


def test_external_traffic_policy_local_for_a_node_port(lab: Lab, clients: list[Host]) -> None:
    """ "should support externalTrafficPolicy=Local for type=NodePort" """
    serve(lab, "web-1", "far-1", policy="Local")
    start(lab)
    for family in FAMILIES:
        for client in clients:
            for node in nodes_of(lab):
                answer = fetch(client, (address_of(node, family), NODE_PORT))
                assert answer.client_ip == address_of(client, family), (client.name, node.name, answer)


def test_a_load_balancer_ip_works_from_pods_under_local(lab: Lab, clients: list[Host]) -> None:
    """ "LoadBalancers ExternalTrafficPolicy: Local should work from pods" """
    serve(lab, "web-1", policy="Local", health_check=True)
    start(lab)
    for family in FAMILIES:
        for client in clients:
            answer = fetch(client, (LOAD_BALANCER_IPS[family], 80))
            assert (answer.pod, answer.client_ip) == ("web-1", address_of(client, family))


def test_node_port_and_health_check_node_port_when_the_policy_changes(lab: Lab, clients: list[Host]) -> None:
    """ "should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes"

    The client is a hostNetwork Pod of the first node, the endpoint is on the second, and the third has neither.
    """
    third = lab.add_node("node-3")
    lab.manifests.node(third)
    client, endpoint_node = lab.node, lab.network.nodes[1]
    nodes = {"client": client, "endpoint": endpoint_node, "third": third}

    def seen(node: str, family: IPFamily) -> str:
        """The client's address as the endpoint sees it, or how the connection fails."""
        address = (address_of(nodes[node], family), NODE_PORT)
        try:
            return fetch(client, address, 1.5).client_ip
        except TimeoutError:
            return DROPPED

    def health(node: str) -> int | str:
        address = (nodes[node].address, HEALTH_CHECK_PORT)
        if try_to_connect(client, address) == REFUSED:
            return REFUSED
        return get(client, address, "/").status

    def check_local() -> None:
        eventually(
            lambda: {name: health(name) for name in nodes} == {"client": 503, "endpoint": 200, "third": 503},
            30,
            "only the endpoint's node is healthy",
        )
        for family in FAMILIES:
            own = address_of(client, family)
            found = {name: seen(name, family) for name in nodes}
            assert found == {"client": own, "endpoint": own, "third": DROPPED}

    serve(lab, "far-1", policy="Local", health_check=True)
    start(lab)
    check_local()
    serve(lab, "far-1")
    lab.settle(*FAMILIES)
    eventually(lambda: all(health(name) == REFUSED for name in nodes), 30, "there is no health check any more")
    assert all(seen(name, family) != DROPPED for name in nodes for family in FAMILIES)
    serve(lab, "far-1", policy="Local", health_check=True)
    lab.settle(*FAMILIES)
    check_local()
