"""Which endpoints serve a flow: every destination, policy and source, in both families.

Endpoints are told apart by where they are and whom they are meant for, so that each list of kube-proxy's is another
set of Pods. userproxy runs on node-1, which is in zone a.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Backend, Policy
from tests.lab.probes import DROPPED, REFUSED, try_to_connect, who_answers
from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FLOWS = [
    # destination           policy that counts        source          served by the list
    ("cluster IP",          "internal Cluster",       "Pod",          "cluster"),
    ("cluster IP",          "internal Cluster",       "host",         "cluster"),
    ("cluster IP",          "internal Cluster",       "outside",      "cluster"),
    ("cluster IP",          "internal Local",         "Pod",          "local"),
    ("cluster IP",          "internal Local",         "host",         "local"),
    ("cluster IP",          "internal Local",         "outside",      "local"),
    ("external IP",         "external Cluster",       "Pod",          "cluster"),
    ("external IP",         "external Cluster",       "host",         "cluster"),
    ("external IP",         "external Cluster",       "outside",      "cluster"),
    ("external IP",         "external Local",         "Pod",          "cluster"),
    ("external IP",         "external Local",         "host",         "cluster"),
    ("external IP",         "external Local",         "outside",      "local"),
    ("load-balancer IP",    "external Cluster",       "Pod",          "cluster"),
    ("load-balancer IP",    "external Cluster",       "host",         "cluster"),
    ("load-balancer IP",    "external Cluster",       "outside",      "cluster"),
    ("load-balancer IP",    "external Local",         "Pod",          "cluster"),
    ("load-balancer IP",    "external Local",         "host",         "cluster"),
    ("load-balancer IP",    "external Local",         "outside",      "local"),
    ("node port",           "external Cluster",       "Pod",          "cluster"),
    ("node port",           "external Cluster",       "host",         "cluster"),
    ("node port",           "external Cluster",       "outside",      "cluster"),
    ("node port",           "external Cluster",       "far Pod",      "cluster"),
    ("node port",           "external Local",         "Pod",          "cluster"),
    ("node port",           "external Local",         "host",         "cluster"),
    ("node port",           "external Local",         "outside",      "local"),
    ("node port",           "external Local",         "far Pod",      "local"),
]  # fmt: skip

SITUATIONS: dict[str, dict[str, set[str] | str]] = {
    # The local list takes no notice of hints.
    "zone hints":           {"cluster": {"web-2", "far-1"},   "local": {"web-1", "web-2"}},
    "all far":              {"cluster": {"far-1", "far-2"},   "local": DROPPED},
    "near terminates":      {"cluster": {"far-1"},            "local": {"web-1"}},
    "none is usable":       {"cluster": REFUSED,              "local": REFUSED},
}  # fmt: skip

POLICIES: list[tuple[Policy, Policy]] = [
    ("Cluster", "Cluster"),
    ("Cluster", "Local"),
    ("Local", "Cluster"),
    ("Local", "Local"),
]

SERVICES = {key: number for number, key in enumerate(product(SITUATIONS, POLICIES), 1)}
"""A Service for each situation under each pair of policies, and the number in its name, addresses and node port."""

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_RANGES = {IPFamily.IPV4: "10.96.0.0/16", IPFamily.IPV6: "fd00:10:96::/112"}


def address_of(destination: str, number: int, family: IPFamily) -> Address:
    """Where a Service's portal is."""
    four, six = {
        "cluster IP": (("10.96.0.{}", 80), ("fd00:10:96::{}", 80)),
        "external IP": (("203.0.113.{}", 80), ("2001:db8:e::a:{}", 80)),
        "load-balancer IP": (("198.51.100.{}", 80), ("2001:db8:e::b:{}", 80)),
        "node port": (("192.0.2.10", 30000 + number), ("2001:db8::10", 30000 + number)),
    }[destination]
    text, port = four if family is IPFamily.IPV4 else six
    return text.format(number), port


def backends(lab: Lab, situation: str) -> list[Backend]:
    pods = {pod.name: pod for pod in lab.pods}
    if situation == "zone hints":
        zones = {"web-1": "b", "web-2": "a", "far-1": "a", "far-2": "b"}
        return [Backend(pods[name], for_zones=(zone,)) for name, zone in zones.items()]
    if situation == "all far":
        return [Backend(pods["far-1"]), Backend(pods["far-2"])]
    if situation == "near terminates":
        return [Backend(pods["far-1"]), Backend(pods["web-1"], ready=False, serving=True, terminating=True)]
    return [Backend(pods["web-1"], ready=False, serving=False), Backend(pods["far-1"], ready=False, serving=False)]


@pytest.fixture(scope="module")
def cluster(shared_lab: Lab) -> Lab:
    """Two nodes and all Services, with userproxy running on the first node."""
    start(shared_lab)
    shared_lab.settle(*FAMILIES)
    return shared_lab


def start(lab: Lab) -> None:
    far = lab.add_second_node()
    lab.add_pod("far-client", far)
    lab.serve_http()
    first = lab.node.address, lab.node.address6
    lab.outside.ip_batch(
        [f"route add {CLUSTER_RANGES[family]} via {hop}" for family, hop in zip(FAMILIES, first, strict=True)]
    )
    for (situation, (internal, external)), number in SERVICES.items():
        name = f"web-{number}"
        lab.manifests.service(
            name,
            cluster_ip=[address_of("cluster IP", number, family)[0] for family in FAMILIES],
            external_ips=[address_of("external IP", number, family)[0] for family in FAMILIES],
            load_balancer_ips=[address_of("load-balancer IP", number, family)[0] for family in FAMILIES],
            node_port=30000 + number,
            internal_policy=internal,
            external_policy=external,
        )
        lab.manifests.slices(name, backends(lab, situation))
    lab.node.start_userproxy(*QUICK, "--detect-local-mode", "NodeCIDR")


def source_of(lab: Lab, name: str) -> Host:
    far_client = lab.network.nodes[1].pods[-1]
    return {"Pod": lab.client, "host": lab.node, "outside": lab.outside, "far Pod": far_client}[name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("policies", POLICIES, ids=lambda pair: f"ITP {pair[0]}, ETP {pair[1]}")
def test_flows(cluster: Lab, family: IPFamily, situation: str, policies: tuple[Policy, Policy]) -> None:
    rows = [flow for flow in FLOWS if flow[1] in in_force(policies)]
    with ThreadPoolExecutor(len(rows)) as threads:
        outcomes = threads.map(lambda flow: outcome(cluster, flow, family, situation, policies), rows)
        found = dict(zip(rows, outcomes, strict=True))
    assert found == {flow: SITUATIONS[situation][flow[3]] for flow in rows}


def in_force(policies: tuple[Policy, Policy]) -> set[str]:
    return {f"internal {policies[0]}", f"external {policies[1]}"}


def outcome(
    lab: Lab, flow: tuple[str, str, str, str], family: IPFamily, situation: str, policies: tuple[Policy, Policy]
) -> set[str] | str:
    destination, _, source, served_by = flow
    expected = SITUATIONS[situation][served_by]
    address = address_of(destination, SERVICES[situation, policies], family)
    if isinstance(expected, str):
        return try_to_connect(source_of(lab, source), address)
    return who_answers(source_of(lab, source), address, expected)


@pytest.mark.parametrize("lab", ["api"], indirect=True)
def test_flows_are_the_same_with_an_api_server(lab: Lab) -> None:
    start(lab)
    for number, family in product(SERVICES.values(), FAMILIES):
        lab.node.wait_for_portal(address_of("cluster IP", number, family)[0])
    cases = [case for case in product(FLOWS, FAMILIES, SITUATIONS, POLICIES) if case[0][1] in in_force(case[3])]
    with ThreadPoolExecutor(48) as threads:
        found = dict(zip(cases, threads.map(lambda case: outcome(lab, *case), cases), strict=True))
    expected = {case: SITUATIONS[case[2]][case[0][3]] for case in cases}
    assert {case: outcome for case, outcome in found.items() if outcome != expected[case]} == {}


DETECTION = {
    "ClusterCIDR": ("--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48"),
    "NodeCIDR": (),
    "BridgeInterface": ("--pod-bridge-interface", "cni0"),
    "InterfaceNamePrefix": ("--pod-interface-name-prefix", "c"),  # cni0, or cali...
}


@pytest.mark.parametrize("mode", DETECTION)
def test_a_pod_of_this_node_is_known_in_every_mode_of_detection(lab: Lab, mode: str) -> None:
    lab.add_second_node(pods=1)
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=["10.96.0.10", "fd00:10:96::10"], node_port=30080, external_policy="Local")
    lab.manifests.slices("web", lab.pods[-1:])
    lab.node.start_userproxy(*QUICK, "--detect-local-mode", mode, *DETECTION[mode])
    lab.settle(*FAMILIES)
    for address in (lab.node.address, lab.node.address6):
        assert fetch(lab.client, (address, 30080)).pod == "far-1"
        assert fetch(lab.node, (address, 30080)).pod == "far-1"
        assert try_to_connect(lab.outside, (address, 30080)) == DROPPED


def test_without_detection_pods_have_no_short_cut(lab: Lab) -> None:
    lab.add_second_node(pods=1)
    lab.serve_http()
    lab.manifests.service("web", cluster_ip="10.96.0.10", node_port=30080, external_policy="Local")
    lab.manifests.slice("web", lab.pods[-1:])
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    assert try_to_connect(lab.client, (lab.node.address, 30080)) == DROPPED
    assert fetch(lab.node, (lab.node.address, 30080)).pod == "far-1"


def test_the_nodes_zone_decides_and_follows_its_label(lab: Lab) -> None:
    lab.add_second_node(pods=1)
    lab.serve_http()
    zones = {"web-1": "a", "web-2": "a", "web-3": "b", "far-1": "b"}
    lab.manifests.service("web", cluster_ip="10.96.0.10")
    lab.manifests.slice("web", [Backend(pod, for_zones=(zones[pod.name],)) for pod in lab.pods])
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    address = ("10.96.0.10", 80)

    def served_by(*pods: str) -> bool:
        return who_answers(lab.client, address, pods) == set(pods)

    assert served_by("web-1", "web-2")
    lab.manifests.node(lab.node, zone="b")
    eventually(lambda: served_by("web-3", "far-1"), 30, "the Pods of zone b serve")
    lab.manifests.node(lab.node)
    eventually(lambda: served_by(*zones), 30, "a node without a zone uses all Pods")
    hinted = [Backend(pod, for_zones=(zones[pod.name],), for_nodes=("node-2",)) for pod in lab.pods[:3]]
    near = Backend(lab.pods[3], for_zones=("b",), for_nodes=("node-1",))
    lab.manifests.slice("web", [*hinted, near])
    eventually(lambda: served_by("far-1"), 30, "the Pod that is meant for this node serves")
