"""The builders write what ``kubectl get -o yaml`` would print, and never half of it."""

from pathlib import Path

import pytest
import yaml

from tests.lab.manifests import Backend, Manifests, Port


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
            "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}],
            "sessionAffinity": "None",
        },
    }


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
