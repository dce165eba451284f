"""The builders write what ``kubectl get -o yaml`` would print, and never half of it."""

from pathlib import Path

import pytest
import yaml

from tests.lab.manifests import Backend, Ingress, Manifests, Port
from userproxy.demo.network import Network, Node, Pod
from userproxy.model import IPFamily


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    return Manifests(tmp_path / "manifests")


def test_a_service_with_a_cluster_ip(manifests: Manifests) -> None:
    assert yaml.safe_load(manifests.service("web", cluster_ip="10.96.0.10").read_text()) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10"],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}],
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
        },
    }


def test_a_dual_stack_service_with_policies(manifests: Manifests) -> None:
    path = manifests.service(
        "web",
        cluster_ip=["fd00:10:96::10", "10.96.0.10"],
        load_balancer_ips=["198.51.100.7", Ingress("2001:db8:e::7", "Proxy")],
        internal_policy="Local",
        external_policy="Local",
        source_ranges=["192.0.2.100/32"],
        health_check_node_port=32000,
        allocate_node_ports=False,
        publish_not_ready=True,
    )
    document = yaml.safe_load(path.read_text())
    spec = document["spec"]
    assert (spec["clusterIP"], spec["clusterIPs"]) == ("fd00:10:96::10", ["fd00:10:96::10", "10.96.0.10"])
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv6", "IPv4"], "RequireDualStack")
    assert (spec["internalTrafficPolicy"], spec["externalTrafficPolicy"]) == ("Local", "Local")
    assert (spec["loadBalancerSourceRanges"], spec["healthCheckNodePort"]) == (["192.0.2.100/32"], 32000)
    assert (spec["allocateLoadBalancerNodePorts"], spec["publishNotReadyAddresses"]) == (False, True)
    assert document["status"]["loadBalancer"]["ingress"] == [
        {"ip": "198.51.100.7"},
        {"ip": "2001:db8:e::7", "ipMode": "Proxy"},
    ]


def test_a_service_with_everything(manifests: Manifests) -> None:
    path = manifests.service(
        "web",
        namespace="shop",
        cluster_ip="10.96.0.10",
        ports=[Port(80, "http"), Port(443, "https", target=8443, node_port=30443)],
        node_port=30080,
        external_ips=["203.0.113.5"],
        load_balancer_ips=["198.51.100.7"],
        affinity=30,
        labels={"app": "web"},
        annotations={"userproxy.io/note": "x"},
    )
    document = yaml.safe_load(path.read_text())
    assert path.name == "service-shop-web.yaml"
    assert document["metadata"]["labels"] == {"app": "web"}
    assert document["metadata"]["annotations"] == {"userproxy.io/note": "x"}
    assert document["spec"]["type"] == "LoadBalancer"
    assert [port["nodePort"] for port in document["spec"]["ports"]] == [30080, 30443]
    assert document["spec"]["externalIPs"] == ["203.0.113.5"]
    assert document["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 30}}
    assert document["status"] == {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}}


def test_a_slice_of_addresses_and_conditions(manifests: Manifests) -> None:
    path = manifests.slice("web", ["10.244.1.2", Backend("10.244.1.3", ready=False)], ports=[Port(80, "http")])
    document = yaml.safe_load(path.read_text())
    assert document["metadata"]["labels"] == {"kubernetes.io/service-name": "web"}
    assert document["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    assert [endpoint["conditions"]["ready"] for endpoint in document["endpoints"]] == [True, False]


def test_slices_of_both_families_name_the_pods_nodes_and_hints(manifests: Manifests, root: None) -> None:
    with Network() as network:
        node = network.add_node(Node("node-1"))
        near, far = (network.add_pod(node, Pod(name)) for name in ("near", "far"))
        hinted = Backend(far, zone="a", for_zones=("a", "b"), for_nodes=("node-1",))
        paths = manifests.slices("web", [near, hinted])
        documents = {family: yaml.safe_load(path.read_text()) for family, path in paths.items()}
        listed = yaml.safe_load(manifests.node(node, zone="a").read_text())
    conditions = {"ready": True, "serving": True, "terminating": False}
    hints = {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "node-1"}]}
    for family, document in documents.items():
        six = family is IPFamily.IPV6
        assert document["addressType"] == family
        assert document["metadata"]["name"] == f"web-{family.lower()}"
        assert document["endpoints"] == [
            {
                "addresses": [near.address6 if six else near.address],
                "conditions": conditions,
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "near"},
                "nodeName": "node-1",
            },
            {
                "addresses": [far.address6 if six else far.address],
                "conditions": conditions,
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "far"},
                "nodeName": "node-1",
                "zone": "a",
                "hints": hints,
            },
        ]
    assert "namespace" not in listed["metadata"]
    assert listed["metadata"]["labels"]["topology.kubernetes.io/zone"] == "a"
    assert listed["spec"]["podCIDRs"][0] == "10.244.1.0/24"
    assert listed["status"]["addresses"][0] == {"type": "InternalIP", "address": "192.0.2.10"}


def test_a_slices_port_as_a_number_is_the_pods_port(manifests: Manifests) -> None:
    document = yaml.safe_load(manifests.slice("web", [], ports=9090).read_text())
    assert document["ports"] == [{"name": "", "protocol": "TCP", "port": 9090}]


def test_writing_again_replaces_the_file_and_leaves_no_draft(manifests: Manifests) -> None:
    first = manifests.slice("web", ["10.244.1.2"])
    before = first.stat().st_ino
    assert manifests.slice("web", ["10.244.1.3"]) == first
    assert first.stat().st_ino != before  # another file took its place: nobody read half of it
    assert list(manifests.directory.iterdir()) == [first]
    manifests.remove(first)
    assert list(manifests.directory.iterdir()) == []
