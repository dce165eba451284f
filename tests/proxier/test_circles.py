"""Endpoints that are portals: which of them lead nowhere but back."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tests.proxier.test_plan import a_port
from userproxy.model import Endpoint, Portal, PortalKind, Protocol, Route, ServicePort, ServicePortName, Verdict
from userproxy.proxier.circles import Circles
from userproxy.proxier.plan import Actual, grant_portals, plan_routes

NAMES = ("a", "b", "c", "d")
POD = Endpoint("10.0.0.1", 80)
NODE = "192.0.2.10"


def cluster_ip(name: str) -> Endpoint:
    return Endpoint(f"10.96.0.{NAMES.index(name) + 1}", 80)


def with_endpoints(name: str, *endpoints: Endpoint, node_port: int = 0) -> ServicePort:
    port = a_port(name, ip=cluster_ip(name).ip, node_port=node_port)
    return structs.replace(port, routes=(Route(verdict=Verdict.SERVE, endpoints=endpoints),))


def circles(*ports: ServicePort) -> Circles:
    return Circles({port.name: port for port in ports}, grant_portals(ports).owners, {NODE})


def test_a_service_is_no_endpoint_of_its_own() -> None:
    a = with_endpoints("a", POD, cluster_ip("a"), node_port=30080)
    own = (cluster_ip("a"), Endpoint(NODE, 30080))
    others = (POD, Endpoint("198.51.100.7", 30080), Endpoint(cluster_ip("a").ip, 81))
    assert circles(a).closed_by(a.name, (*own, *others)) == own


def test_another_protocol_is_another_portal() -> None:
    a = with_endpoints("a", cluster_ip("a"))
    udp = ServicePortName("default", "a", "http", Protocol.UDP)
    assert circles(a).closed_by(udp, (cluster_ip("a"),)) == ()


def test_the_portal_of_a_service_with_pods_is_an_endpoint_like_any_other() -> None:
    a, b = with_endpoints("a", cluster_ip("b")), with_endpoints("b", POD)
    assert circles(a, b).closed_by(a.name, (cluster_ip("b"),)) == ()


def test_external_portals_count() -> None:
    portal = Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.7", 80)
    a = structs.replace(with_endpoints("a"), portals=(portal,))
    assert circles(a).closed_by(a.name, (Endpoint("198.51.100.7", 80),)) == (Endpoint("198.51.100.7", 80),)


targets = st.lists(st.sampled_from(NAMES), max_size=3).map(lambda names: tuple(map(cluster_ip, names)))


@given(st.lists(st.tuples(st.sampled_from(NAMES), targets), max_size=12))
def test_no_history_of_changes_closes_a_circle(history: list[tuple[str, tuple[Endpoint, ...]]]) -> None:
    wanted = {port.name: port for port in map(with_endpoints, NAMES)}
    actual = Actual()
    for name, endpoints in history:
        changed = with_endpoints(name, *endpoints)
        wanted[changed.name] = changed
        for update in plan_routes(wanted, grant_portals(wanted.values()), [changed.name], actual):
            actual.snapshots[update.snapshot.listener] = update.snapshot
            assert {*update.snapshot.endpoints, *update.circular} == set(endpoints)
        leads = {each.service_port.name: set(found.endpoints) for each, found in actual.snapshots.items()}
        for start in NAMES:
            assert start not in reached(leads, start)


def reached(leads: Mapping[str, set[Endpoint]], start: str) -> set[str]:
    """The Services that traffic to `start` can come to."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        endpoints = leads.get(waiting.pop(), ())
        onward = {name for name in NAMES if cluster_ip(name) in endpoints} - found
        found |= onward
        waiting += onward
    return found
