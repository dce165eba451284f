"""Who has which portal, as Services come, change and go."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tests.proxier.oracle import grant_portals, granted_by, wanted_of
from tests.proxier.test_plan import a_name, a_port
from userproxy.model import Endpoint, Portal, PortalKind, Protocol, Route, ServicePort, ServicePortName, Verdict
from userproxy.proxier.wanted import OwnerChanges, PortalKey, Wanted


def test_the_oldest_service_has_the_node_port_and_the_other_is_named() -> None:
    young = a_port("a", ip="10.96.0.1", node_port=30080, created="2026-02-01T00:00:00Z")
    old = a_port("b", ip="10.96.0.2", node_port=30080, created="2026-01-01T00:00:00Z")
    wanted = wanted_of([young, old])
    assert [problem.text for problem in wanted.conflicts(young.name)] == [
        "default/a:http: node port 30080 (TCP) is not served, because default/b:http has it"
    ]
    assert wanted.conflicts(old.name) == ()
    assert wanted.portals(old.name) == old.portals
    assert wanted.portals(young.name) == young.portals[:1]


def test_a_service_without_a_creation_time_is_the_youngest() -> None:
    dated = a_port("z", ip="10.96.0.1", node_port=30080, created="2026-02-01T00:00:00Z")
    undated = a_port("a", ip="10.96.0.2", node_port=30080)
    assert len(wanted_of([undated, dated]).portals(dated.name)) == 2


def test_protocols_do_not_conflict() -> None:
    tcp = a_port("dns", node_port=30053)
    udp = ServicePort(ServicePortName("default", "dns", "http", Protocol.UDP), tcp.portals)
    wanted = wanted_of([tcp, udp])
    assert not wanted.conflicts(tcp.name)
    assert not wanted.conflicts(udp.name)


def test_the_same_address_twice_in_one_service_is_one_portal() -> None:
    ip = "203.0.113.5"
    portals = (Portal(PortalKind.EXTERNAL_IP, ip, 80), Portal(PortalKind.LOAD_BALANCER_IP, ip, 80))
    wanted = wanted_of([ServicePort(a_name("web"), portals)])
    assert wanted.portals(a_name("web")) == portals[:1]
    assert wanted.conflicts(a_name("web")) == ()


def test_the_loser_gets_it_when_the_owner_goes() -> None:
    a, b = a_port("a", ip="10.96.0.1", node_port=30080), a_port("b", ip="10.96.0.2", node_port=30080)
    wanted = wanted_of([a, b])
    moved = wanted.drop(a.name).portals
    assert ("", 30080, Protocol.TCP) in moved
    assert wanted.contenders(moved) == {b.name}
    assert wanted.portals(b.name) == b.portals
    assert wanted.portals(a.name) == ()


def test_an_edit_tells_only_what_it_concerns() -> None:
    a, b = a_port("a", ip="10.96.0.1", node_port=30001), a_port("b", ip="10.96.0.2")
    wanted = wanted_of([a, b])
    assert wanted.put(a) == OwnerChanges()
    assert wanted.put(a_port("a", ip="10.96.0.1", node_port=30002)).portals == {
        ("", 30001, Protocol.TCP),
        ("", 30002, Protocol.TCP),
    }
    moved = wanted.put(structs.replace(b, portals=a.portals))
    assert moved.portals == moved.destinations == {("10.96.0.2", 80, Protocol.TCP), ("", 30001, Protocol.TCP)}
    moved = wanted.put(structs.replace(b, portals=a.portals, balancers=(Endpoint("198.51.100.7", 80),)))
    assert moved == OwnerChanges(destinations=frozenset({("198.51.100.7", 80, Protocol.TCP)}))


ADDRESSES = ("10.96.0.1", "10.96.0.2", "192.0.2.10")
endpoints = st.lists(st.builds(Endpoint, st.sampled_from(ADDRESSES), st.sampled_from((80, 30001))), max_size=3)


@st.composite
def service_ports(draw: st.DrawFn) -> ServicePort:
    portals = [Portal(draw(st.sampled_from(list(PortalKind)[:3])), draw(st.sampled_from(ADDRESSES)), 80)]
    portals += draw(st.lists(st.sampled_from([Portal(PortalKind.NODE_PORT, "", port) for port in (30001, 30002)])))
    protocol = draw(st.sampled_from((Protocol.TCP, Protocol.UDP)))
    return ServicePort(
        ServicePortName("default", draw(st.sampled_from("abcd")), "", protocol),
        tuple(portals),
        tuple(Route(verdict=Verdict.SERVE, endpoints=tuple(draw(endpoints))) for _ in range(draw(st.integers(1, 2)))),
        unused=tuple(draw(endpoints)),
        balancers=tuple(draw(endpoints)),
        created=draw(st.sampled_from(("", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"))),
    )


def changed_owners(before: dict[PortalKey, ServicePortName], after: dict[PortalKey, ServicePortName]) -> set[PortalKey]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def users(ports: Iterable[ServicePort], key: PortalKey) -> set[ServicePortName]:
    ip, number, protocol = key
    return {
        port.name
        for port in ports
        if port.name.protocol is protocol
        and any(endpoint.port == number and ip in {"", endpoint.ip} for endpoint in port.endpoints)
    }


@given(st.lists(st.tuples(service_ports(), st.booleans()), max_size=25))
def test_edits_end_where_starting_anew_does(history: list[tuple[ServicePort, bool]]) -> None:
    wanted = Wanted()
    ports: dict[ServicePortName, ServicePort] = {}
    for port, stays in history:
        owners, destinations = dict(wanted.owners), dict(wanted.destinations)
        if stays:
            ports[port.name] = port
            moved = wanted.put(port)
        elif ports.pop(port.name, None) is not None:
            moved = wanted.drop(port.name)
        else:
            continue
        assert changed_owners(owners, dict(wanted.owners)) <= moved.portals
        assert changed_owners(destinations, dict(wanted.destinations)) <= moved.destinations
        assert granted_by(wanted) == grant_portals(ports.values())
        for key in (*destinations, *wanted.destinations):
            assert wanted.with_endpoints_at([key]) == users(ports.values(), key)


def test_other_endpoints_alone_are_found_where_they_are_and_no_longer_where_they_were() -> None:
    old = a_port("a", ip="10.96.0.1")
    new = structs.replace(old, routes=(structs.replace(old.routes[0], endpoints=(Endpoint("10.0.0.9", 99),)),))
    wanted = wanted_of([old, a_port("b", ip="10.96.0.2")])
    (before,) = old.endpoints
    wanted.put_endpoints(new, new.endpoints, old.endpoints, {99})
    assert wanted.ports[old.name] is new
    assert wanted.with_endpoints_at([("10.0.0.9", 99, Protocol.TCP)]) == {old.name}
    assert wanted.with_endpoints_at([(before.ip, before.port, Protocol.TCP)]) == {a_port("b").name}
