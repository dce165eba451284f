"""What a proxier says of service ports: their portals, their endpoints, and why those are not used."""

import pytest
from msgspec import structs

from tests.proxier.test_proxier import HERE, WEB, Portals, World, a_service
from userproxy.model import (
    ClientAddress,
    EndpointSlice,
    Hints,
    Portal,
    PortalKind,
    ProxyProtocol,
    ServiceName,
    ServiceState,
    SliceEndpoint,
    SlicePort,
)
from userproxy.proxier.inspect.reports import EndpointReport, PortalReport, portal_reports
from userproxy.proxier.proxier import Proxier

NAME = ServiceName("default", "web")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def proxier(world: World) -> Proxier:
    return Proxier(world, world, Portals(world), world, HERE)


def with_endpoints(state: ServiceState, *endpoints: SliceEndpoint) -> ServiceState:
    ports = (SlicePort("http", WEB.protocol, 8080),)
    return ServiceState(state.service, (EndpointSlice("default", "web-1", "web", "IPv4", ports, endpoints),))


def portals(proxier: Proxier) -> dict[str, tuple[int | None, bool]]:
    """Local port and whether it is in sync, by portal."""
    report = proxier.report(WEB)
    assert report is not None
    return {str(each.portal): (each.local_port, each.in_sync) for each in report.portals}


def reasons(world: World, proxier: Proxier) -> dict[str, tuple[bool, str]]:
    """Whether it is usable, and the reason why not, by address."""
    return {each.endpoint.ip: (each.usable, each.reason) for each in proxier.endpoints(WEB, world.states[NAME])}


async def test_portals_are_in_sync_once_the_driver_has_confirmed_them(world: World, proxier: Proxier) -> None:
    world.put(a_service("web", "10.96.0.1", 30080))
    await proxier.follow()
    assert portals(proxier) == {"cluster IP 10.96.0.1:80": (None, False), "node port 30080": (None, False)}
    await proxier.sync(verify=False)
    assert portals(proxier) == {"cluster IP 10.96.0.1:80": (40_001, True), "node port 30080": (40_001, True)}
    world.kernel_refuses = True
    world.put(a_service("web", "10.96.0.1", 30080, external_ips=("192.0.2.1",), type="NodePort", external_local=True))
    await proxier.sync(verify=False)
    assert {in_sync for _, in_sync in portals(proxier).values()} == {False}
    assert proxier.failure == "iptables-restore ended with 4"
    world.kernel_refuses = False
    await proxier.sync(verify=False)
    assert {in_sync for _, in_sync in portals(proxier).values()} == {True}
    assert proxier.failure == ""


async def test_a_portal_that_another_service_has_is_not_in_sync(world: World, proxier: Proxier) -> None:
    world.put(a_service("a", "10.96.0.1", 30080, created="2020"), a_service("web", "10.96.0.2", 30080, created="2021"))
    await proxier.sync(verify=False)
    assert {portal: in_sync for portal, (_, in_sync) in portals(proxier).items()} == {
        "cluster IP 10.96.0.2:80": True,
        "node port 30080": False,
    }


async def test_portals_whose_rules_are_refused_are_not_in_sync(world: World, proxier: Proxier) -> None:
    world.refused = {WEB: "no such target"}
    world.put(a_service("web", "10.96.0.1"))
    await proxier.sync(verify=False)
    assert portals(proxier) == {"cluster IP 10.96.0.1:80": (40_001, False)}


async def test_endpoints_with_node_zone_and_conditions(world: World, proxier: Proxier) -> None:
    endpoint = SliceEndpoint("10.0.0.1", serving=True, terminating=True, ready=False, node="node-2", zone="b")
    world.put(with_endpoints(a_service("web", "10.96.0.1"), endpoint))
    await proxier.sync(verify=False)
    (found,) = proxier.endpoints(WEB, world.states[NAME])
    assert found == EndpointReport(
        found.endpoint, "node-2", "b", ready=False, serving=True, terminating=True, usable=True, reason=""
    )
    report = proxier.report(WEB)
    assert report is not None
    assert (report.usable, report.endpoints, report.driver) == (1, 1, "fake")


async def test_why_endpoints_are_not_used_or_not_by_everybody(world: World, proxier: Proxier) -> None:
    here, there = SliceEndpoint("10.0.0.1", node="node-1"), SliceEndpoint("10.0.0.2", node="node-2")
    broken = SliceEndpoint("10.0.0.3", node="node-1", ready=False, serving=False)
    base = a_service("web", "10.96.0.1", 30080, type="NodePort", external_local=True)
    world.put(with_endpoints(base, here, there, broken))
    await proxier.sync(verify=False)
    policy = "policy Local: it is on node node-2"
    assert reasons(world, proxier) == {
        "10.0.0.1": (True, ""),
        "10.0.0.2": (True, f"not at external portals: {policy}"),
        "10.0.0.3": (False, "not ready"),
    }
    for external in (False, True):
        service = structs.replace(base.service, internal_local=True, external_local=external)
        world.put(with_endpoints(ServiceState(service), here, there))
        await proxier.sync(verify=False)
        whose = "not for clients from elsewhere, nor at cluster IPs" if external else "not at cluster IPs"
        assert reasons(world, proxier) == {"10.0.0.1": (True, ""), "10.0.0.2": (True, f"{whose}: {policy}")}
    service = structs.replace(
        base.service, internal_local=True, type="ClusterIP", ports=a_service("x", "1").service.ports
    )
    world.put(with_endpoints(ServiceState(service), here, there))
    await proxier.sync(verify=False)
    assert reasons(world, proxier) == {"10.0.0.1": (True, ""), "10.0.0.2": (False, policy)}


async def test_hints_and_endpoints_that_are_not_taken_over_yet(world: World, proxier: Proxier) -> None:
    near = SliceEndpoint("10.0.0.1", hints=Hints(zones=("a",)))
    far = SliceEndpoint("10.0.0.2", hints=Hints(zones=("b",)))
    world.put(with_endpoints(a_service("web", "10.96.0.1"), near, far))
    await proxier.sync(verify=False)
    assert reasons(world, proxier) == {"10.0.0.1": (True, ""), "10.0.0.2": (False, "hint: for zone b")}
    world.put(with_endpoints(a_service("web", "10.96.0.1"), SliceEndpoint("10.0.0.9")))
    assert reasons(world, proxier) == {"10.0.0.9": (False, "not taken over yet")}


async def test_an_endpoint_that_leads_back_to_the_service_is_a_routing_loop(world: World, proxier: Proxier) -> None:
    state = a_service("web", "10.96.0.1")
    ports = (SlicePort("http", WEB.protocol, 80),)
    members = (SliceEndpoint("10.96.0.1"), SliceEndpoint("10.0.0.2"))
    world.put(ServiceState(state.service, (EndpointSlice("default", "web-1", "web", "IPv4", ports, members),)))
    await proxier.sync(verify=False)
    usable, reason = reasons(world, proxier)["10.96.0.1"]
    assert (usable, reason.partition(":")[0]) == (False, "routing loop")
    report = proxier.report(WEB)
    assert report is not None
    assert (report.usable, report.endpoints) == (1, 2)


async def test_nothing_is_said_of_what_is_not_wanted(world: World, proxier: Proxier) -> None:
    assert proxier.report(WEB) is None
    assert proxier.endpoints(WEB, a_service("web", "10.96.0.1")) == ()


def test_a_portal_without_a_binding_leads_nowhere() -> None:
    portal = Portal(PortalKind.CLUSTER_IP, "10.96.0.1", 80)
    assert portal_reports([portal], None, None) == (PortalReport(portal, None, in_sync=False),)


async def test_whose_address_endpoints_see_is_told_as_the_service_has_it(world: World, proxier: Proxier) -> None:
    state = a_service("web", "10.96.0.1")
    service = structs.replace(
        state.service, client_address=ClientAddress.KEEP, sends_proxy=ProxyProtocol.V2, accepts_proxy=ProxyProtocol.V1
    )
    world.put(ServiceState(service, state.slices))
    await proxier.sync(verify=False)
    report = proxier.report(WEB)
    assert report is not None
    said = (report.client_address, report.sends_proxy, report.accepts_proxy)
    assert said == (ClientAddress.KEEP, ProxyProtocol.V2, ProxyProtocol.V1)
