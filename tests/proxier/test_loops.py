"""Endpoints that are portals: which of them lead nowhere but back."""

from collections.abc import Collection, Mapping
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tests.proxier.oracle import grant_portals, wanted_of
from tests.proxier.test_plan import a_port
from userproxy.model import (
    ClientAddress,
    Endpoint,
    Portal,
    PortalKind,
    Protocol,
    Route,
    ServicePort,
    ServicePortName,
    Verdict,
)
from userproxy.proxier.loops import AnyNodeAddress, RoutingLoops
from userproxy.proxier.plan import Actual, plan_routes

NAMES = ("a", "b", "c", "d")
POD = Endpoint("10.0.0.1", 80)
NODE = "192.0.2.10"
OTHER_NODE = "192.0.2.11"
BALANCER = "198.51.100.200"


def cluster_ip(name: str) -> Endpoint:
    return Endpoint(f"10.96.0.{NAMES.index(name) + 1}", 80)


def with_endpoints(name: str, *endpoints: Endpoint, node_port: int = 0) -> ServicePort:
    port = a_port(name, ip=cluster_ip(name).ip, node_port=node_port)
    return structs.replace(port, routes=(Route(verdict=Verdict.SERVE, endpoints=endpoints),))


def loops(*ports: ServicePort) -> RoutingLoops:
    return RoutingLoops({port.name: port for port in ports}, grant_portals(ports).destinations, {NODE, OTHER_NODE})


def test_node_ports_are_served_at_the_addresses_of_this_node_and_of_all_others() -> None:
    reachable = AnyNodeAddress({NODE, "10.244.1.1"}, {NODE, OTHER_NODE})
    assert all(address in reachable for address in (NODE, "10.244.1.1", OTHER_NODE))
    assert POD.ip not in reachable


def test_a_service_is_no_endpoint_of_its_own() -> None:
    a = with_endpoints("a", POD, cluster_ip("a"), node_port=30080)
    own = (cluster_ip("a"), Endpoint(NODE, 30080), Endpoint(OTHER_NODE, 30080))
    others = (POD, Endpoint("198.51.100.7", 30080), Endpoint(cluster_ip("a").ip, 81))
    assert loops(a).looping(a.name, (*own, *others)) == own


def test_another_protocol_is_another_portal() -> None:
    a = with_endpoints("a", cluster_ip("a"))
    udp = ServicePortName("default", "a", "http", Protocol.UDP)
    assert loops(a).looping(udp, (cluster_ip("a"),)) == ()


def test_the_portal_of_a_service_with_pods_is_an_endpoint_like_any_other() -> None:
    a, b = with_endpoints("a", cluster_ip("b")), with_endpoints("b", POD)
    assert loops(a, b).looping(a.name, (cluster_ip("b"),)) == ()


def test_endpoints_that_are_left_keep_their_nodes() -> None:
    a = with_endpoints("a", POD, cluster_ip("a"), Endpoint("10.0.0.2", 80))
    a = structs.replace(a, routes=(structs.replace(a.routes[0], nodes=("node-1", "", "node-2")),))
    (update,) = plan_routes([a.name], wanted_of([a]), Actual(), loops(a))
    assert update.looping == (cluster_ip("a"),)
    assert (update.snapshot.endpoints, update.snapshot.nodes) == ((POD, Endpoint("10.0.0.2", 80)), ("node-1", "node-2"))


@pytest.mark.parametrize(
    ("endpoints", "seen"),
    [
        ((POD,), ClientAddress.AUTO),
        ((POD, cluster_ip("b")), ClientAddress.NODE),
        ((POD, cluster_ip("a")), ClientAddress.AUTO),  # left out: all that are used are Pods
    ],
)
def test_a_portal_as_an_endpoint_sees_the_nodes_address(endpoints: tuple[Endpoint, ...], seen: ClientAddress) -> None:
    a = structs.replace(with_endpoints("a", *endpoints), client_address=ClientAddress.AUTO)
    b = with_endpoints("b", POD)
    (update,) = plan_routes([a.name], wanted_of([a, b]), Actual(), loops(a, b))
    assert update.snapshot.client_address is seen


def test_external_portals_count() -> None:
    portal = Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.7", 80)
    a = structs.replace(with_endpoints("a"), portals=(portal,))
    assert loops(a).looping(a.name, (Endpoint("198.51.100.7", 80),)) == (Endpoint("198.51.100.7", 80),)


@pytest.mark.parametrize("kind", [PortalKind.EXTERNAL_IP, PortalKind.LOAD_BALANCER_IP])
def test_an_external_address_counts_wherever_it_is(kind: PortalKind) -> None:
    a = with_endpoints("a", Endpoint("198.51.100.7", 80))
    b = structs.replace(with_endpoints("b", cluster_ip("a")), portals=(Portal(kind, "198.51.100.7", 80),))
    assert loops(a, b).looping(a.name, (Endpoint("198.51.100.7", 80),)) == (Endpoint("198.51.100.7", 80),)


def test_a_load_balancer_that_is_no_portal_of_ours_leads_back_all_the_same() -> None:
    destinations = (Endpoint(BALANCER, 80), Endpoint(BALANCER, 30080))
    a = structs.replace(with_endpoints("a", node_port=30080), balancers=destinations)
    assert loops(a).looping(a.name, (*destinations, Endpoint(BALANCER, 81))) == destinations
    b = structs.replace(with_endpoints("b"), portals=(Portal(PortalKind.EXTERNAL_IP, BALANCER, 80),))
    assert loops(a, b).looping(a.name, destinations) == destinations[1:], "where it is a portal, that counts"


def test_the_endpoints_of_others_count_though_this_node_does_not_use_them() -> None:
    """With a Local policy every node has a list of its own, and the next one may use what this one does not."""
    a = with_endpoints("a", Endpoint(OTHER_NODE, 30081), node_port=30080)
    b = structs.replace(with_endpoints("b", POD, node_port=30081), unused=(Endpoint(NODE, 30080),))
    assert loops(a, b).looping(a.name, (Endpoint(OTHER_NODE, 30081),)) == (Endpoint(OTHER_NODE, 30081),)
    without = structs.replace(b, unused=())
    assert loops(a, without).looping(a.name, (Endpoint(OTHER_NODE, 30081),)) == ()


class Asked(set[str]):
    """Addresses, and those that were asked about."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(addresses)
        self.seen: list[str] = []

    def __contains__(self, address: object) -> bool:
        self.seen.append(str(address))
        return super().__contains__(address)


def test_addresses_are_asked_about_only_where_a_node_port_has_the_number() -> None:
    """Or else every address of a Pod would be looked up."""
    a = with_endpoints("a", node_port=30080)
    nodes = Asked(NODE)
    found = RoutingLoops({a.name: a}, grant_portals([a]).destinations, nodes)
    pods = (Endpoint("10.0.0.1", 30080), Endpoint("10.0.0.2", 8080), Endpoint(NODE, 8080))
    assert found.looping(a.name, pods) == ()
    assert nodes.seen == ["10.0.0.1"]


def test_what_a_service_leads_to_is_looked_at_once() -> None:
    """Or else two Services with a thousand endpoints each would cost a million looks."""
    looked_at = 0

    class Counted(dict[tuple[str, int, Protocol], ServicePortName]):
        def get(self, key: tuple[str, int, Protocol], default: object = None) -> ServicePortName | None:  # type: ignore[override]
            nonlocal looked_at
            looked_at += 1
            return super().get(key)

    b = with_endpoints("b", *(Endpoint(f"10.0.{number}.1", 8080) for number in range(100)), node_port=30081)
    hundred = tuple(Endpoint(NODE, 30081) for _ in range(100))
    a = with_endpoints("a", *hundred)
    owners = Counted(grant_portals([a, b]).destinations)
    assert RoutingLoops({a.name: a, b.name: b}, owners, {NODE}).looping(a.name, hundred) == ()
    assert looked_at < 1000


nodes_names = ("192.0.2.10", "192.0.2.11", "192.0.2.12")
destinations = st.sampled_from(
    [
        POD,
        Endpoint(BALANCER, 80),
        *(cluster_ip(name) for name in NAMES),
        *(Endpoint(node, 30080 + number) for node, number in product(nodes_names, range(len(NAMES)))),
    ]
)
lists = st.dictionaries(st.sampled_from(NAMES), st.lists(destinations, max_size=3, unique=True), min_size=2)
Hop = tuple[str, str]


@given(lists, st.sets(st.tuples(st.sampled_from(nodes_names), destinations)))
def test_no_circle_over_nodes_whatever_each_of_them_uses(
    endpoints: Mapping[str, list[Endpoint]], hidden: set[tuple[str, Endpoint]]
) -> None:
    """Each node uses a part of the endpoints alone, for its policies or hints; `hidden` are those that it does not."""
    leads: dict[Hop, set[Hop]] = {}
    for node in nodes_names:
        ports = [on_node(name, endpoints.get(name, ()), {e for n, e in hidden if n == node}) for name in NAMES]
        wanted = {port.name: port for port in ports}
        found = RoutingLoops(wanted, grant_portals(ports).destinations, nodes_names)
        for port in ports:
            used = set(port.routes[0].endpoints) - set(found.looping(port.name, port.routes[0].endpoints))
            leads[node, port.name.name] = {place for endpoint in used for place in behind(node, endpoint)}
    for start in leads:
        assert start not in everywhere(leads, start)


def on_node(name: str, endpoints: Collection[Endpoint], hidden: Collection[Endpoint]) -> ServicePort:
    used = tuple(each for each in endpoints if each not in hidden)
    port = with_endpoints(name, *used, node_port=30080 + NAMES.index(name))
    balancers = (Endpoint(BALANCER, 80),) if name == "a" else ()
    return structs.replace(port, unused=tuple(each for each in endpoints if each in hidden), balancers=balancers)


def behind(node: str, endpoint: Endpoint) -> set[Hop]:
    """The Services, and on which nodes, that get what `node` sends to an endpoint."""
    if endpoint.ip in nodes_names:
        return {(endpoint.ip, NAMES[endpoint.port - 30080])}
    if endpoint.ip == BALANCER:
        return {(each, "a") for each in nodes_names}
    return {(node, name) for name in NAMES if cluster_ip(name) == endpoint}


def everywhere(leads: Mapping[Hop, set[Hop]], start: Hop) -> set[Hop]:
    found: set[Hop] = set()
    waiting = [start]
    while waiting:
        onward = leads[waiting.pop()] - found
        found |= onward
        waiting += onward
    return found


targets = st.lists(st.sampled_from(NAMES), max_size=3).map(lambda names: tuple(map(cluster_ip, names)))


@given(st.lists(st.tuples(st.sampled_from(NAMES), targets), max_size=12))
def test_no_history_of_changes_closes_a_circle(history: list[tuple[str, tuple[Endpoint, ...]]]) -> None:
    wanted = {port.name: port for port in map(with_endpoints, NAMES)}
    actual = Actual(local_ports={listener: 1 for port in wanted.values() for listener in port.listeners})
    for name, endpoints in history:
        changed = with_endpoints(name, *endpoints)
        wanted[changed.name] = changed
        edited = wanted_of(wanted.values())
        for update in plan_routes([changed.name], edited, actual, RoutingLoops(edited.ports, edited.destinations, ())):
            actual.snapshots[update.snapshot.listener] = update.snapshot
            assert {*update.snapshot.endpoints, *update.looping} == set(endpoints)
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
