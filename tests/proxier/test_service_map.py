"""What follows from a change of a Service."""

import pytest
from msgspec import structs
from msgspec.structs import replace

from tests.proxier.test_proxier import WEB, a_service
from userproxy.addresses import IPFamily
from userproxy.model import ClientAddress, PortSpec, ProblemKind, Protocol, ServicePortName, ServiceState, SliceEndpoint
from userproxy.proxier import service_map
from userproxy.proxier.service_map import ServiceChange, ServiceMap
from userproxy.proxier.wanted import OwnerChanges
from userproxy.routing.selection import Locality
from userproxy.routing.services import NoLocalEndpoints, Scope

HERE = Scope(locality=Locality("node-1", "a"))
VIP, NODE_PORT = ("10.96.0.1", 80, Protocol.TCP), ("", 30080, Protocol.TCP)


def update(services: ServiceMap, state: ServiceState, scope: Scope = HERE) -> ServiceChange:
    return services.update(state.service.key, state, scope)


def with_endpoints(state: ServiceState, *addresses: str, node: str | None = None) -> ServiceState:
    endpoints = tuple(SliceEndpoint(address, node=node) for address in addresses)
    return structs.replace(state, slices=(structs.replace(state.slices[0], endpoints=endpoints),))


def test_a_service_that_comes_and_goes() -> None:
    services, web = ServiceMap(), a_service("web", "10.96.0.1", 30080)
    owners = OwnerChanges(frozenset({VIP, NODE_PORT}), frozenset({VIP, NODE_PORT}))
    assert update(services, web) == ServiceChange((WEB,), [WEB], owners, (), [30080])
    assert (set(services.names), set(services.wanted.ports)) == ({web.service.key}, {WEB})
    assert services.update(web.service.key, None, HERE) == ServiceChange((WEB,), [WEB], owners, (), [])
    assert (set(services.names), set(services.wanted.ports)) == (set(), set())


def test_other_endpoints_reshape_nothing_and_the_last_one_does() -> None:
    services, web = ServiceMap(), a_service("web", "10.96.0.1")
    update(services, web)
    change = update(services, with_endpoints(web, "10.0.0.1", "10.0.0.2"))
    assert (change.names, change.reshaped, change.owners) == ((WEB,), [], OwnerChanges())
    assert len(list(services.wanted.ports[WEB].endpoints)) == 2
    assert update(services, with_endpoints(web)).reshaped == [WEB], "clients are refused from now on"


def test_endpoints_of_a_plain_service_are_followed_without_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    services, web = ServiceMap(), a_service("web", "10.96.0.1")
    update(services, web)
    with monkeypatch.context() as patched:
        patched.setattr(service_map, "service_ports", None)
        followed = ServiceChange((WEB,), [], OwnerChanges(), (), [])
        for addresses in (("10.0.0.1",), ("10.0.0.1", "10.0.0.2")):
            assert update(services, with_endpoints(web, *addresses)) == followed
            assert [each.ip for each in services.wanted.ports[WEB].endpoints] == list(addresses)
    other = replace(web.service, affinity_timeout=100)
    assert list(update(services, structs.replace(web, service=other)).names) == [WEB]
    assert services.wanted.ports[WEB].affinity_timeout == 100
    elsewhere = Scope(locality=HERE.locality, client_address=ClientAddress.AUTO)
    update(services, structs.replace(web, service=other), elsewhere)
    assert services.wanted.ports[WEB].client_address is ClientAddress.AUTO


def test_all_ports_of_a_service_have_other_endpoints_or_none_has() -> None:
    ports = (PortSpec("dns", Protocol.UDP, 53), PortSpec("dns-tcp", Protocol.TCP, 53))
    services, dns = ServiceMap(), a_service("dns", "10.96.0.10", ports=ports)
    key = dns.service.key
    update(services, dns)
    both = services.with_other_endpoints(key, with_endpoints(dns, "10.0.0.2"), HERE)
    assert both is not None
    assert [(each.name.port, [str(one) for one in each.endpoints]) for each in both] == [
        ("dns", ["10.0.0.2:8080"]),
        ("dns-tcp", ["10.0.0.2:8080"]),
    ]
    of_one = structs.replace(dns, slices=(structs.replace(dns.slices[0], ports=dns.slices[0].ports[:1]),))
    assert services.with_other_endpoints(key, of_one, HERE) is None
    change = update(services, with_endpoints(dns, "10.0.0.3"))
    assert (list(change.names), list(change.reshaped), change.owners) == (
        list(services.ports_of(key)),
        [],
        OwnerChanges(),
    )
    assert {str(one) for each in services.wanted.ports.values() for one in each.endpoints} == {"10.0.0.3:8080"}


def test_a_port_that_goes_is_named_with_those_that_stay() -> None:
    services, web = ServiceMap(), a_service("web", "10.96.0.1")
    update(services, web)
    renamed = structs.replace(web.service, ports=(structs.replace(web.service.ports[0], name="www"),))
    now = ServicePortName("default", "web", "www", Protocol.TCP)
    change = update(services, structs.replace(web, service=renamed))
    assert (list(change.names), list(change.reshaped)) == ([now, WEB], [WEB, now])
    assert VIP in change.owners.portals
    assert set(services.wanted.ports) == {now}


def test_a_service_that_is_none_of_ours_is_as_if_it_were_not_there() -> None:
    services, web = ServiceMap(), a_service("web", "10.96.0.1")
    update(services, web)
    change = update(services, web, Scope(proxy_name="other"))
    assert (list(change.names), list(change.reshaped)) == ([WEB], [WEB])
    assert not services.names
    assert not update(ServiceMap(), web, Scope(family=IPFamily.IPV6)).names


def test_a_service_of_which_nothing_is_served_is_remembered_with_its_problem() -> None:
    services, web = ServiceMap(), a_service("web", "10.96.0.1")
    sctp = structs.replace(web.service.ports[0], protocol=Protocol("SCTP"))
    change = update(services, structs.replace(web, service=structs.replace(web.service, ports=(sctp,))))
    assert [problem.kind for problem in change.left_out] == [ProblemKind.UNSUPPORTED_PROTOCOL]
    assert set(services.names) == {web.service.key}


def test_a_health_check_is_kept_until_it_is_asked_for_no_longer_and_its_port_is_a_node_port() -> None:
    services = ServiceMap()
    state = a_service("web", "10.96.0.1", node="node-1", type="LoadBalancer", external_local=True)
    checked = structs.replace(state, service=structs.replace(state.service, health_check_node_port=30081))
    assert update(services, checked).node_ports == [30081]
    assert [(check.port, check.local_endpoints) for check in services.health_checks] == [(30081, 1)]
    update(services, structs.replace(state, service=structs.replace(state.service, external_local=False)))
    assert services.health_checks == ()


def test_service_ports_without_local_endpoints_are_counted_once_each() -> None:
    services = ServiceMap()
    web, other = (
        a_service(name, ip, node="node-2", internal_local=True)
        for name, ip in (("web", "10.96.0.1"), ("other", "10.96.0.2"))
    )
    update(services, web)
    update(services, web)
    update(services, other)
    assert services.no_local == NoLocalEndpoints(internal=2)
    update(services, with_endpoints(web, "10.0.0.1", node="node-1"))
    assert services.no_local == NoLocalEndpoints(internal=1)
    services.update(other.service.key, None, HERE)
    assert services.no_local == NoLocalEndpoints()
