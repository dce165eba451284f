"""Services: what a proxy gets of them."""

from typing import Any

import pytest

from tests.cluster.examples import SERVICE, Path, a_service, put, without
from userproxy.cluster.decode import decode
from userproxy.model import PortSpec, Protocol, Service


def decoded(document: Any) -> tuple[Service, tuple[str, ...]]:
    found = decode(document, "a.yaml")
    (service,) = found.objects
    assert isinstance(service, Service)
    return service, found.problems


def service_of(document: Any) -> Service:
    service, problems = decoded(document)
    assert problems == ()
    return service


def test_everything() -> None:
    assert service_of(SERVICE) == Service(
        namespace="shop",
        name="web",
        type="LoadBalancer",
        cluster_ips=("10.96.0.10", "fd00::10"),
        external_ips=("203.0.113.5",),
        load_balancer_ips=("198.51.100.7",),
        ports=(PortSpec("http", Protocol.TCP, 80, 30080), PortSpec("dns", Protocol.UDP, 53)),
        affinity_timeout=600,
        created="2026-01-31T12:00:00Z",
        proxy_name="mine",
    )


def test_the_least_that_a_person_writes() -> None:
    assert service_of(a_service("web")) == Service(
        "default", "web", cluster_ips=("10.96.0.1",), ports=(PortSpec("", Protocol.TCP, 80),)
    )


@pytest.mark.parametrize(
    ("path", "value", "field", "expected"),
    [
        (("metadata", "namespace"), None, "namespace", "default"),
        (("metadata", "namespace"), "", "namespace", "default"),
        (("metadata", "labels"), None, "proxy_name", None),
        (("metadata", "labels", "service.kubernetes.io/service-proxy-name"), "", "proxy_name", ""),
        (("metadata", "creationTimestamp"), None, "created", ""),
        (("spec", "type"), None, "type", "ClusterIP"),
        (("spec", "type"), "NodePort", "type", "NodePort"),
        (("spec", "clusterIPs"), None, "cluster_ips", ("10.96.0.10",)),
        (("spec", "clusterIPs"), [], "cluster_ips", ("10.96.0.10",)),
        (("spec", "clusterIP"), None, "cluster_ips", ("10.96.0.10", "fd00::10")),
        (("spec", "clusterIP"), "", "cluster_ips", ("10.96.0.10", "fd00::10")),
        (("spec", "ipFamilies"), None, "cluster_ips", ("10.96.0.10",)),
        (("spec", "ipFamilies"), ["IPv4"], "cluster_ips", ("10.96.0.10",)),
        (("spec", "externalIPs"), None, "external_ips", ()),
        (("spec", "externalIPs"), [None, "", "  "], "external_ips", ()),
        (("spec", "externalIPs"), ["FD00::1", "1.2.3.4", "fd00::1"], "external_ips", ("fd00::1", "1.2.3.4")),
        (("spec", "sessionAffinity"), None, "affinity_timeout", None),
        (("spec", "sessionAffinity"), "None", "affinity_timeout", None),
        (("spec", "sessionAffinityConfig"), None, "affinity_timeout", 10800),
        (("spec", "sessionAffinityConfig", "clientIP"), None, "affinity_timeout", 10800),
        (("spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"), 86400, "affinity_timeout", 86400),
        (("status",), None, "load_balancer_ips", ()),
        (("status", "loadBalancer"), {}, "load_balancer_ips", ()),
        (("status", "loadBalancer", "ingress"), None, "load_balancer_ips", ()),
        (("status", "loadBalancer", "ingress", 0, "ipMode"), None, "load_balancer_ips", ("198.51.100.7",)),
        (("status", "loadBalancer", "ingress", 0, "ipMode"), "Proxy", "load_balancer_ips", ()),
        (("status", "loadBalancer", "ingress", 0), {"hostname": "shop.example.com"}, "load_balancer_ips", ()),
        (("spec", "ports", 0, "protocol"), None, "ports", SERVICE),
        (("spec", "ports", 0, "targetPort"), "web", "ports", SERVICE),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_field(path: Path, value: object, field: str, expected: object) -> None:
    if expected is SERVICE:
        expected = getattr(service_of(SERVICE), field)
    assert getattr(service_of(put(SERVICE, path, value)), field) == expected


def test_the_same_port_number_may_serve_two_protocols() -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]
    assert service_of(put(SERVICE, ("spec", "ports"), ports)).ports == (
        PortSpec("dns", Protocol.UDP, 53),
        PortSpec("dns-tcp", Protocol.TCP, 53),
    )


@pytest.mark.parametrize("value", ["None", None])
def test_a_headless_service_needs_no_ports(value: str | None) -> None:
    document = put(put(SERVICE, ("spec", "clusterIPs"), ["None"]), ("spec", "clusterIP"), value)
    service = service_of(without(document, ("spec", "ports")))
    assert service.cluster_ips == ()
    assert service.ports == ()


def test_an_external_name_needs_neither_ports_nor_address() -> None:
    spec = {"type": "ExternalName", "externalName": "shop.example.com"}
    service = service_of(put(SERVICE, ("spec",), spec))
    assert (service.type, service.cluster_ips, service.ports) == ("ExternalName", (), ())


def test_without_an_address_the_service_stays_and_says_so() -> None:
    service, problems = decoded(without(a_service("web"), ("spec", "clusterIP")))
    assert service.cluster_ips == ()
    assert problems == (
        "a.yaml (Service default/web): spec.clusterIP: missing; only an API server allots one, so nothing is served",
    )


def test_an_external_ip_that_is_none_costs_only_itself() -> None:
    service, problems = decoded(put(SERVICE, ("spec", "externalIPs"), ["1.2.3.4", "1.2.3", "5.6.7.8"]))
    assert service.external_ips == ("1.2.3.4", "5.6.7.8")
    assert problems == ('a.yaml (Service shop/web): spec.externalIPs[1]: "1.2.3" is not an IP address',)
