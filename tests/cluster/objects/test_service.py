"""Services: what a proxy gets of them."""

from typing import Any

import pytest

from tests.cluster.examples import SERVICE, Path, a_service, put, without
from userproxy.cluster.objects.documents import decode
from userproxy.model import ClientAddress, PortSpec, Protocol, ProxyProtocol, Service


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
        internal_local=True,
        external_local=True,
        source_ranges=("10.0.0.0/8", "fd00::/8"),
        health_check_node_port=32000,
        close_removed_after=0.0,
        udp_timeout=90.0,
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
        (("status", "loadBalancer", "ingress", 0, "ipMode"), "Proxy", "balancer_ips", ("198.51.100.7",)),
        (("status", "loadBalancer", "ingress", 0, "ipMode"), "VIP", "balancer_ips", ()),
        (("status", "loadBalancer", "ingress", 0), {"hostname": "shop.example.com"}, "load_balancer_ips", ()),
        (("spec", "ports", 0, "protocol"), None, "ports", SERVICE),
        (("spec", "ports", 0, "targetPort"), "web", "ports", SERVICE),
        (("spec", "internalTrafficPolicy"), "Cluster", "internal_local", False),
        (("spec", "internalTrafficPolicy"), "", "internal_local", False),
        (("spec", "internalTrafficPolicy"), None, "internal_local", False),
        (("spec", "externalTrafficPolicy"), "Cluster", "external_local", False),
        (("spec", "externalTrafficPolicy"), "", "external_local", False),
        (("spec", "externalTrafficPolicy"), None, "external_local", False),
        (("spec", "healthCheckNodePort"), None, "health_check_node_port", 0),
        (("spec", "healthCheckNodePort"), 0, "health_check_node_port", 0),
        (("spec", "healthCheckNodePort"), 65535, "health_check_node_port", 65535),
        (("spec", "loadBalancerSourceRanges"), None, "source_ranges", ()),
        (("spec", "loadBalancerSourceRanges"), [], "source_ranges", ()),
        (("spec", "loadBalancerSourceRanges"), [" 10.1.2.3/8\t", "10.0.0.0/8"], "source_ranges", ("10.0.0.0/8",)),
        (("spec", "loadBalancerSourceRanges"), ["0.0.0.0/0"], "source_ranges", ("0.0.0.0/0",)),
        (("spec", "loadBalancerSourceRanges"), ["FD00::1/8"], "source_ranges", ("fd00::/8",)),
        (("metadata", "annotations"), None, "udp_timeout", None),
        (("metadata", "annotations"), {}, "close_removed_after", None),
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


@pytest.mark.parametrize(
    ("ingress", "sentence"),
    [
        ({"ip": "198.51.100"}, '[1].ip: "198.51.100" is not an IP address'),
        ({"ip": "0.0.0.0"}, '[1].ip: "0.0.0.0" is not the address of a single host'),
        ({"ip": "198.51.100.8", "ipMode": "vip"}, '[1].ipMode: "vip" is not one of VIP, Proxy'),
    ],
)
def test_a_bad_ingress_costs_only_itself(ingress: dict[str, str], sentence: str) -> None:
    entries = [{"ip": "198.51.100.7"}, ingress, {"ip": "FD00::7"}]
    service, problems = decoded(put(SERVICE, ("status", "loadBalancer", "ingress"), entries))
    assert service.load_balancer_ips == ("198.51.100.7", "fd00::7")
    assert problems == (f"a.yaml (Service shop/web): status.loadBalancer.ingress{sentence}",)


@pytest.mark.parametrize("policy", ["internal", "external"])
def test_an_unknown_traffic_policy_is_cluster(policy: str) -> None:
    service, problems = decoded(put(SERVICE, ("spec", f"{policy}TrafficPolicy"), "local"))
    assert not getattr(service, f"{policy}_local")
    assert service.internal_local or service.external_local
    assert problems == (
        f'a.yaml (Service shop/web): spec.{policy}TrafficPolicy: "local" is not one of Cluster, Local; '
        "it is taken for Cluster",
    )


@pytest.mark.parametrize("port", [-1, 65536, 10**30])
def test_a_bad_health_check_node_port_costs_only_itself(port: int) -> None:
    service, problems = decoded(put(SERVICE, ("spec", "healthCheckNodePort"), port))
    assert service.health_check_node_port == 0
    assert problems == (f"a.yaml (Service shop/web): spec.healthCheckNodePort: {port} is not a port number (0..65535)",)


NOBODY = {"IPv4": "0.0.0.0/32", "IPv6": "::/128"}


@pytest.mark.parametrize(
    ("ranges", "kept", "malformed", "closed"),
    [
        (["10.0.0.0/8", "office"], ["10.0.0.0/8"], {1: '"office"'}, []),
        (["10.0.0.0/33", "fd00::/8"], ["fd00::/8"], {0: '"10.0.0.0/33"'}, ["IPv4"]),
        (["10.0.0.0/8", "fd00::/129"], ["10.0.0.0/8"], {1: '"fd00::/129"'}, ["IPv6"]),
        (["office", "0.0.0.0/0"], ["0.0.0.0/0"], {0: '"office"'}, []),
        (["office"], [], {0: '"office"'}, ["IPv4", "IPv6"]),
        (["10.0.0.1", "fd00::1"], [], {0: '"10.0.0.1"', 1: '"fd00::1"'}, ["IPv4", "IPv6"]),
        ([None, ""], [], {0: '""', 1: '""'}, ["IPv4", "IPv6"]),
        ([" "], [], {0: '""'}, ["IPv4", "IPv6"]),
    ],
    ids=str,
)
def test_a_malformed_source_range_opens_nothing(
    ranges: list[str | None], kept: list[str], malformed: dict[int, str], closed: list[str]
) -> None:
    service, problems = decoded(put(SERVICE, ("spec", "loadBalancerSourceRanges"), ranges))
    path = "a.yaml (Service shop/web): spec.loadBalancerSourceRanges"
    assert service.source_ranges == (*kept, *(NOBODY[family] for family in closed))
    assert problems == (
        *(f"{path}[{index}]: {text} is not a network such as 10.244.0.0/24" for index, text in malformed.items()),
        *(
            f"{path}: no {family} network is left, so no {family} client may use the load-balancer IPs"
            for family in closed
        ),
    )


def test_a_bad_annotation_costs_only_itself() -> None:
    service, problems = decoded(put(SERVICE, ("metadata", "annotations", "userproxy.io/udp-timeout"), 30))
    assert problems == ()  # whoever serves it says so
    assert service.close_removed_after == 0.0
    assert service.udp_timeout is None
    assert service.bad_annotations == (
        "shop/web: annotation userproxy.io/udp-timeout: 30 is not a duration such as 30s or 5m, between 1s and 24h",
    )


@pytest.mark.parametrize(("protocols", "complains"), [(["UDP"], True), (["UDP", "TCP"], False), (["TCP"], False)])
def test_limits_for_tcp_alone_are_told_where_there_is_no_tcp(protocols: list[str], complains: bool) -> None:
    ports = [{"name": each.lower(), "port": 53, "protocol": each} for each in protocols]
    manifest = put(SERVICE, ("spec", "ports"), ports)
    for name, value in (("connection-rate", "5/s"), ("idle-timeout", "30s"), ("max-connections", "9")):
        manifest = put(manifest, ("metadata", "annotations", f"userproxy.io/{name}"), value)
    service = service_of(manifest)
    said = "it is for ports of TCP, and the Service has none"
    assert service.bad_annotations == tuple(
        f"shop/web: annotation userproxy.io/{name}: {said}" for name in ("connection-rate", "idle-timeout") if complains
    )
    assert service.limits is not None
    assert service.limits.connections == 9


def test_annotations_about_the_clients_address_are_fields_of_the_service() -> None:
    manifest = SERVICE
    for name, value in (("client-address", "keep"), ("proxy-protocol", "v1"), ("accept-proxy-protocol", "v2")):
        manifest = put(manifest, ("metadata", "annotations", f"userproxy.io/{name}"), value)
    service = service_of(manifest)
    said = (service.client_address, service.sends_proxy, service.accepts_proxy)
    assert said == (ClientAddress.KEEP, ProxyProtocol.V1, ProxyProtocol.V2)


def test_annotations_of_others_are_nothing_to_us() -> None:
    assert service_of(put(SERVICE, ("metadata", "annotations", "example.com/udp-timeout"), ["x"])) == service_of(
        SERVICE
    )
