"""Which Services are served, through which portals."""

import pytest

from userproxy.model import (
    Endpoint,
    EndpointSlice,
    Portal,
    PortalKind,
    PortSpec,
    Protocol,
    Service,
    ServiceName,
    ServicePortName,
    ServiceState,
    SliceEndpoint,
    SlicePort,
)
from userproxy.routing.services import portals_of, service_ports, skip_reason

HTTP = PortSpec("http", Protocol.TCP, 80, 30080)
WEB = Service("default", "web", cluster_ips=("10.96.0.10",), ports=(HTTP,))


def a_service(**changes: object) -> Service:
    fields = {name: getattr(WEB, name) for name in WEB.__struct_fields__} | changes
    return Service(**fields)


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        (WEB, None),
        (a_service(type="NodePort"), None),
        (a_service(type="LoadBalancer"), None),
        (a_service(type="ExternalName"), "its type is ExternalName"),
        (a_service(cluster_ips=()), "it has no cluster IP"),
        (a_service(cluster_ips=("fd00::1",)), "it has no IPv4 cluster IP"),
        (a_service(cluster_ips=("fd00::1", "10.96.0.1")), None),
        (a_service(proxy_name="other"), "it is labelled for the service proxy 'other'"),
        (a_service(proxy_name=""), "it is labelled for the service proxy ''"),
    ],
    ids=lambda value: "" if isinstance(value, Service) else str(value),
)
def test_skip_reason(service: Service, reason: str | None) -> None:
    assert skip_reason(service) == reason
    assert (service_ports(ServiceState(service)).ports == ()) == (reason is not None)


def test_with_a_proxy_name_only_the_services_labelled_for_it_are_ours() -> None:
    assert skip_reason(a_service(proxy_name="mine"), "mine") is None
    assert skip_reason(WEB, "mine") == "it has no label service.kubernetes.io/service-proxy-name: mine"
    assert skip_reason(a_service(proxy_name="other"), "mine") == "it is labelled for the service proxy 'other'"


def test_portals_come_in_the_order_of_opening_and_ipv6_is_left_out() -> None:
    service = a_service(
        cluster_ips=("10.96.0.10", "fd00::10"),
        external_ips=("203.0.113.5", "2001:db8::5"),
        load_balancer_ips=("198.51.100.7",),
    )
    assert portals_of(service, HTTP) == (
        Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80),
        Portal(PortalKind.EXTERNAL_IP, "203.0.113.5", 80),
        Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.7", 80),
        Portal(PortalKind.NODE_PORT, "", 30080),
    )


def test_no_node_port_no_portal_for_it() -> None:
    portals = portals_of(WEB, PortSpec("http", Protocol.TCP, 80))
    assert [portal.kind for portal in portals] == [PortalKind.CLUSTER_IP]


def test_each_port_gets_the_endpoints_of_its_own_name() -> None:
    slice_ = EndpointSlice(
        "default",
        "web-1",
        "web",
        "IPv4",
        (SlicePort("http", Protocol.TCP, 8080), SlicePort("admin", Protocol.TCP, 9090)),
        (SliceEndpoint("10.244.0.2"),),
    )
    service = a_service(
        ports=(HTTP, PortSpec("admin", Protocol.TCP, 81)), affinity_timeout=60, created="2026-01-01T00:00:00Z"
    )
    http, admin = service_ports(ServiceState(service, (slice_,))).ports
    assert http.name == ServicePortName("default", "web", "http", Protocol.TCP)
    assert http.endpoints == (Endpoint("10.244.0.2", 8080),)
    assert admin.endpoints == (Endpoint("10.244.0.2", 9090),)
    assert (http.affinity_timeout, http.created) == (60, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize("protocol", [Protocol.UDP, Protocol.SCTP])
def test_what_cannot_be_carried_is_named_and_its_neighbour_served(protocol: Protocol) -> None:
    routed = service_ports(ServiceState(a_service(ports=(PortSpec("odd", protocol, 53), HTTP))))
    assert [port.name.port for port in routed.ports] == ["http"]
    (problem,) = routed.left_out
    assert problem.service == ServiceName("default", "web")
    assert problem.text.startswith(f"default/web:odd: {protocol} port 53 is not served")
