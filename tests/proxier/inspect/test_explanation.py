"""What is explained is what happens: against who is let in where, and whom the balancer then picks."""

from ipaddress import ip_address, ip_network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.routing.strategies import localities, slices
from userproxy.model import (
    Endpoint,
    IPFamily,
    ListenerName,
    Portal,
    PortalAddress,
    PortalBinding,
    PortalKind,
    PortSpec,
    Protocol,
    Service,
    ServiceState,
    TrafficClass,
    Verdict,
)
from userproxy.portals.interface import Traits
from userproxy.portals.local.admissions import admissions
from userproxy.proxier.inspect.explanation import (
    Explanation,
    Programmed,
    Surroundings,
    explain,
    find_portal,
    traffic_class,
)
from userproxy.proxier.local_addresses import LocalAddresses
from userproxy.proxier.loops import RoutingLoops
from userproxy.proxier.plan import Actual, OpenListener, UpdateRoute, binding, plan
from userproxy.proxier.wanted import Wanted
from userproxy.routing.affinity import AffinityTable
from userproxy.routing.balancer import Balancer
from userproxy.routing.selection import Locality
from userproxy.routing.services import Scope, service_ports

NODE_IP, NODE_PORT = "192.0.2.10", 30080
CLIENTS = {"node": NODE_IP, "pod": "10.244.0.77", "elsewhere": "192.0.2.200", "in range": "198.18.0.1"}
NODE = Surroundings(frozenset({NODE_IP, "127.0.0.1"}), ("10.244.0.0/24",), (NODE_IP,))
RANGES = st.sampled_from([(), ("198.18.0.0/15",), ("192.0.2.0/28", "198.18.0.0/15"), ("10.244.0.0/16",)])

services = st.builds(
    Service,
    namespace=st.just("default"),
    name=st.just("web"),
    type=st.just("LoadBalancer"),
    cluster_ips=st.just(("10.96.0.10",)),
    external_ips=st.sampled_from([(), ("203.0.113.1",)]),
    load_balancer_ips=st.sampled_from([(), ("203.0.113.2",)]),
    source_ranges=RANGES,
    internal_local=st.booleans(),
    external_local=st.booleans(),
    affinity_timeout=st.sampled_from([None, 60]),
    ports=st.sampled_from([0, NODE_PORT]).map(lambda port: (PortSpec("http", Protocol.TCP, 80, port),)),
)

CONNECTIONS = st.lists(st.tuples(st.sampled_from(sorted(CLIENTS)), st.integers(0, 9)), max_size=12)
"""Who connects, and to which portal."""


class World:
    """One Service as a proxier would have it in force, and a balancer for each of its listeners."""

    def __init__(self, state: ServiceState, locality: Locality, traits: Traits, seed: int = 0) -> None:
        self.state, self.locality, self.traits = state, locality, traits
        (self.port,) = service_ports(state, Scope(locality=locality, node_ips=(NODE_IP,))).ports
        self.wanted, self.actual = Wanted(), Actual(IPFamily.IPV4)
        self.wanted.put(self.port)
        self.addresses = LocalAddresses(local=NODE.addresses)
        table = AffinityTable()
        self.balancers: dict[ListenerName, Balancer] = {}
        loops = RoutingLoops(self.wanted.ports, self.wanted.destinations, frozenset())
        for action in plan(self.port.name, self.wanted, self.actual, self.addresses, loops).before:
            if isinstance(action, OpenListener):
                self.actual.local_ports[action.name] = 40000 + len(self.actual.local_ports)
            elif isinstance(action, UpdateRoute):
                self.actual.snapshots[action.snapshot.listener] = action.snapshot
                made = self.balancers[action.snapshot.listener] = Balancer(Random(seed), lambda _: table)
                made.update(action.snapshot)
            else:
                self.actual.account(action.claim, self.port.name)
        needed = binding(self.port.name, self.wanted, self.actual, self.addresses)
        assert needed is not None
        self.binding: PortalBinding = needed

    def programmed(self, **changes: object) -> Programmed:
        there = Programmed(
            self.port, self.state, self.port.portals, self.binding, self.binding, {}, "",
            self.actual.snapshots, self.locality, "local", self.traits,
        )  # fmt: skip
        return structs.replace(there, **changes)

    def explain(self, client: str, portal: Portal) -> Explanation:
        return explain(self.programmed(), client, portal, NODE)

    def meets(self, client: str, portal: Portal) -> ListenerName | Verdict:
        """Who takes a client's connection, as the local driver has it."""
        admitted = admissions(self.binding, IPFamily.IPV4, NODE_IP, NODE.addresses, NODE.pod_networks)
        at = admitted.get(PortalAddress(portal.ip or NODE_IP, Protocol.TCP, portal.port))
        if at is None:
            return Verdict.REJECT
        for rule in at.host if client in NODE.addresses else at.others:
            if not rule.network or ip_address(client) in ip_network(rule.network):
                return Verdict.DROP if rule.listener is None else rule.listener
        return Verdict.DROP


@settings(max_examples=1000)
@given(
    services,
    slices(),
    localities,
    st.lists(st.tuples(st.sampled_from(sorted(CLIENTS)), st.integers(0, 9)), max_size=12),
)
def test_what_is_explained_happens(
    service: Service, found: list[object], locality: Locality, connections: list[tuple[str, int]]
) -> None:
    world = World(ServiceState(service, tuple(found)), locality, Traits(binds_portals=True))  # type: ignore[arg-type]
    for now, (who, which) in enumerate(connections):
        client, portal = CLIENTS[who], world.port.portals[which % len(world.port.portals)]
        said = world.explain(client, portal)
        happened = world.meets(client, portal)
        if isinstance(happened, Verdict):
            assert (said.verdict, said.listener) == (happened, None)
            continue
        assert (said.verdict, said.listener) == (Verdict.SERVE, happened)
        balancer = world.balancers[happened]
        next_one = balancer.peek(client, float(now)).endpoint
        assert balancer.pick(client, float(now)) == next_one
        assert next_one in {each.endpoint for each in said.endpoints if each.usable}
        assert {each.endpoint for each in said.endpoints if each.usable} == set(
            world.actual.snapshots[happened].endpoints
        )
        for each in said.endpoints:
            assert bool(each.reason) != each.usable


SERVICE = Service(
    "default", "web", cluster_ips=("10.96.0.10",), load_balancer_ips=("203.0.113.2",), type="LoadBalancer",
    ports=(PortSpec("http", Protocol.TCP, 80, NODE_PORT),),
)  # fmt: skip
NAT = Traits(translates=True)
INSIDE = Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80)
BALANCED = Portal(PortalKind.LOAD_BALANCER_IP, "203.0.113.2", 80)


def test_ranges_drop_even_those_whom_nobody_could_serve_where_rules_decide() -> None:
    state = ServiceState(structs.replace(SERVICE, source_ranges=("198.18.0.0/15",)), ())
    for traits, verdict in ((NAT, Verdict.DROP), (Traits(binds_portals=True), Verdict.REJECT)):
        said = World(state, Locality("n1"), traits).explain(CLIENTS["elsewhere"], BALANCED)
        assert said.verdict is verdict
    said = World(state, Locality("n1"), NAT).explain(CLIENTS["in range"], BALANCED)
    assert (said.verdict, said.reason) == (Verdict.REJECT, "there are no endpoints")


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({"confirmed": None}, Verdict.DROP, "it is not in force yet"),
        ({"refused": "its rules are refused: bad name"}, Verdict.DROP, "its rules are refused: bad name"),
        ({"needed": None}, Verdict.REJECT, "this portal is not served, for want of its port"),
    ],
)
def test_what_is_not_in_force_serves_nobody(changes: dict[str, object], verdict: Verdict, reason: str) -> None:
    world = World(ServiceState(SERVICE, ()), Locality("n1"), NAT)
    said = explain(world.programmed(**changes), CLIENTS["pod"], world.port.portals[0], NODE)
    assert (said.verdict, said.reason) == (verdict, reason)


def test_a_withheld_portal_is_told_with_the_reason() -> None:
    world = World(ServiceState(SERVICE, ()), Locality("n1"), NAT)
    portal = world.port.portals[1]
    rest = structs.replace(world.binding, portals=(world.port.portals[0],))
    there = world.programmed(needed=rest, confirmed=rest, unserved={portal: "a program listens there"})
    said = explain(there, CLIENTS["pod"], portal, NODE)
    assert (said.verdict, said.reason) == (Verdict.REJECT, "a program listens there")


def test_a_portal_that_the_local_driver_lacks_is_refused_and_others_are_not() -> None:
    world = World(ServiceState(SERVICE, ()), Locality("n1"), Traits(binds_portals=True))
    there = world.programmed(refused="default/web: 203.0.113.2:80/TCP: nginx listens on this port of every address")
    assert explain(there, CLIENTS["pod"], BALANCED, NODE).reason.startswith("default/web: 203.0.113.2:80/TCP")
    assert explain(there, CLIENTS["pod"], world.port.portals[0], NODE).reason == "there are no endpoints"


@pytest.mark.parametrize(
    ("destination", "kind"),
    [
        (None, PortalKind.CLUSTER_IP),
        (Endpoint("10.96.0.10", 0), PortalKind.CLUSTER_IP),
        (Endpoint("10.96.0.10", 80), PortalKind.CLUSTER_IP),
        (Endpoint("10.96.0.10", 81), None),
        (Endpoint("203.0.113.2", 80), PortalKind.LOAD_BALANCER_IP),
        (Endpoint(NODE_IP, NODE_PORT), PortalKind.NODE_PORT),
        (Endpoint("0.0.0.0", NODE_PORT), PortalKind.NODE_PORT),
        (Endpoint("192.0.2.11", NODE_PORT), None),
    ],
)
def test_which_portal_a_destination_is(destination: Endpoint | None, kind: PortalKind | None) -> None:
    (port,) = service_ports(ServiceState(SERVICE, ()), Scope()).ports
    found = find_portal(port.portals, destination, NODE.addresses)
    assert (None if found is None else found.kind) is kind


def test_whose_traffic_it_is() -> None:
    for who, traffic in (
        ("node", TrafficClass.ON_NODE),
        ("pod", TrafficClass.ON_NODE),
        ("elsewhere", TrafficClass.EXTERNAL),
    ):
        assert traffic_class(BALANCED, CLIENTS[who], NODE) is traffic
        assert (
            traffic_class(Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80), CLIENTS[who], NODE) is TrafficClass.INTERNAL
        )
