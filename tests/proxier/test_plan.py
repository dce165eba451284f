"""The plan, run by a small pure interpreter: whatever there was, what is wanted comes out, in a safe order."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tests.proxier.oracle import grant_portals, wanted_of
from userproxy.model import (
    ClientAddress,
    Endpoint,
    ListenerName,
    Portal,
    PortalAddress,
    PortalBinding,
    PortalKind,
    Protocol,
    ProxyProtocol,
    Route,
    ServicePort,
    ServicePortName,
    Snapshot,
    Target,
    TrafficClass,
    Verdict,
)
from userproxy.proxier.local_addresses import LocalAddresses
from userproxy.proxier.loops import RoutingLoops
from userproxy.proxier.plan import (
    Action,
    Actual,
    Claim,
    ClaimPort,
    CloseListener,
    OpenListener,
    ReleasePort,
    UpdateRoute,
    binding,
    claim_of,
    plan,
    plan_routes,
    shape,
    snapshots_of,
)
from userproxy.proxier.wanted import Wanted

NODE_PORT = PortalKind.NODE_PORT
INTERNAL, EXTERNAL = TrafficClass.INTERNAL, TrafficClass.EXTERNAL
CLUSTER_IP = Portal(PortalKind.CLUSTER_IP, "10.96.0.53", 53)
BALANCED = Portal(PortalKind.LOAD_BALANCER_IP, "192.0.2.9", 53)
EVERYWHERE = Portal(NODE_PORT, "", 30053)
SERVED = Route(TrafficClass.INTERNAL, Verdict.SERVE, (Endpoint("10.0.0.1", 80),))


def a_name(name: str) -> ServicePortName:
    return ServicePortName("default", name, "http", Protocol.TCP)


def a_port(name: str, *, ip: str = "10.96.0.1", node_port: int = 0, created: str = "") -> ServicePort:
    portals = [Portal(PortalKind.CLUSTER_IP, ip, 80)]
    if node_port:
        portals.append(Portal(PortalKind.NODE_PORT, "", node_port))
    return ServicePort(a_name(name), tuple(portals), (SERVED,), created=created)


def with_local_policy(port: ServicePort, verdict: Verdict = Verdict.SERVE) -> ServicePort:
    """The same with ``externalTrafficPolicy: Local``."""
    local = Route(TrafficClass.EXTERNAL, verdict, SERVED.endpoints if verdict is Verdict.SERVE else ())
    return structs.replace(port, routes=(*port.routes, local), external=TrafficClass.EXTERNAL)


def plain_binding(port: ServicePort, local_port: int) -> PortalBinding:
    target = Target(Verdict.SERVE, local_port)
    return PortalBinding(port.name, port.portals, target, target, target)


NOWHERE = LocalAddresses()


def no_circles(wanted: Wanted) -> RoutingLoops:
    return RoutingLoops(wanted.ports, wanted.destinations, ())


def kinds(actions: Iterable[Action | str]) -> list[str]:
    return [action if isinstance(action, str) else type(action).__name__ for action in actions]


def led_to(binding: PortalBinding) -> set[int]:
    return {target.local_port for target in (binding.internal, binding.external, binding.on_node)} - {0}


def perform(action: Action, actual: Actual, own: LocalAddresses = NOWHERE) -> None:
    """What the executor does, without anything to do it to; asserts that it is safe."""
    rules = actual.programmed.values()
    match action:
        case OpenListener(name, preferred):
            assert name not in actual.local_ports
            actual.local_ports[name] = preferred or max(actual.local_ports.values(), default=40_000) + 1
        case ClaimPort(claim, _, owner):
            assert claim not in actual.claims.get(owner, ())
            actual.account(claim, owner)
        case UpdateRoute(snapshot):
            assert snapshot.listener in actual.local_ports
            actual.snapshots[snapshot.listener] = snapshot
        case CloseListener(name):
            assert not any(actual.local_ports[name] in led_to(each) for each in rules), "a rule leads to it"
            del actual.local_ports[name]
            actual.snapshots.pop(name, None)
        case ReleasePort(claim, owner):
            if actual.discharge(claim, owner):
                needed = {claim_of(each.name, portal) for each in rules for portal in each.portals}
                assert claim not in needed, "a rule still has it"


def sync(
    wanted: Wanted, actual: Actual, own: LocalAddresses = NOWHERE, preferred: Sequence[int] = ()
) -> list[Action | str]:
    """Plan all that is wanted and all that there is, and do it; what was done, and "rules" where they were others."""
    names = {*wanted.ports, *actual.programmed, *(name.service_port for name in actual.local_ports), *actual.claims}
    done: list[Action | str] = []
    after: list[Action] = []
    programmed: dict[ServicePortName, PortalBinding] = {}
    for name in sorted(names):
        step = plan(name, wanted, actual, own, no_circles(wanted), preferred)
        for opening in step.before:
            perform(opening, actual)
        done += step.before
        after += step.after
        needed = binding(name, wanted, actual, own)
        if needed is not None:
            programmed[name] = needed
    done += ["rules"] if programmed != actual.programmed else []
    actual.programmed = programmed
    routed = {actual.local_ports[name] for name in actual.snapshots}
    assert all(led_to(each) <= routed for each in programmed.values()), "a rule leads to a listener without a route"
    for action in after:
        perform(action, actual)
    return done + after


def settled(*ports: ServicePort) -> Actual:
    actual = Actual()
    sync(wanted_of(ports), actual)
    return actual


def listener(port: ServicePort, traffic: TrafficClass = TrafficClass.INTERNAL) -> ListenerName:
    return ListenerName(port.name, port.family, traffic)


def test_a_new_service_port_is_opened_claimed_routed_and_programmed_in_this_order() -> None:
    done = sync(wanted_of([a_port("web", node_port=30080)]), Actual())
    assert kinds(done) == ["OpenListener", "ClaimPort", "UpdateRoute", "rules"]


def test_listeners_and_rules_get_all_that_a_service_port_says() -> None:
    gone = Endpoint("10.0.0.9", 80)
    port = structs.replace(
        with_local_policy(a_port("web", node_port=30080), Verdict.DROP),
        affinity_timeout=60,
        known=(*SERVED.endpoints, gone),
        udp_timeout=1.5,
        source_ranges=("192.0.2.0/24",),
        health_check_port=32000,
        client_address=ClientAddress.KEEP,
        sends_proxy=ProxyProtocol.V1,
        accepts_proxy=ProxyProtocol.V2,
    )
    port = structs.replace(port, routes=(structs.replace(port.routes[0], nodes=("node-1",)), port.routes[1]))
    said = (60, (*SERVED.endpoints, gone), 1.5, ClientAddress.KEEP)
    headers = (ProxyProtocol.V1, ProxyProtocol.V2)
    internal, external = port.listeners
    assert snapshots_of(port) == (
        Snapshot(internal, Verdict.SERVE, SERVED.endpoints, *said, ("node-1",), *headers),
        Snapshot(external, Verdict.DROP, (), *said, (), *headers),
    )
    actual = Actual()
    sync(wanted_of([port]), actual)
    programmed = actual.programmed[port.name]
    assert programmed.internal == Target(Verdict.SERVE, actual.local_ports[internal])
    assert programmed.external == Target(Verdict.DROP)
    assert (programmed.source_ranges, programmed.health_check_port) == (("192.0.2.0/24",), 32000)


def test_clients_are_held_where_there_is_no_endpoint_and_no_rule_changes_when_there_is_one() -> None:
    awake = structs.replace(a_port("web"), hold=9.0)
    asleep = structs.replace(awake, routes=(structs.replace(awake.routes[0], endpoints=()),))
    assert [each.hold for each in (*snapshots_of(asleep), *snapshots_of(awake))] == [9.0, None]
    assert shape(asleep) == shape(awake)
    refusing = structs.replace(asleep, routes=(structs.replace(asleep.routes[0], verdict=Verdict.DROP),))
    assert snapshots_of(refusing)[0].hold is None


@pytest.mark.parametrize(
    ("portals", "external", "on_node", "known"),
    [
        ([CLUSTER_IP], INTERNAL, INTERNAL, {INTERNAL: "10.96.0.53"}),
        ([CLUSTER_IP, BALANCED], INTERNAL, INTERNAL, {}),
        ([EVERYWHERE], INTERNAL, INTERNAL, {}),
        ([CLUSTER_IP, BALANCED], EXTERNAL, INTERNAL, {EXTERNAL: "192.0.2.9"}),
        ([CLUSTER_IP, BALANCED], EXTERNAL, EXTERNAL, {INTERNAL: "10.96.0.53", EXTERNAL: "192.0.2.9"}),
        ([CLUSTER_IP, EVERYWHERE], EXTERNAL, EXTERNAL, {INTERNAL: "10.96.0.53"}),
        ([CLUSTER_IP, BALANCED, EVERYWHERE], EXTERNAL, EXTERNAL, {INTERNAL: "10.96.0.53"}),
    ],
)
def test_udp_listeners_know_the_portal_of_their_clients_if_there_is_just_one(
    portals: list[Portal], external: TrafficClass, on_node: TrafficClass, known: dict[TrafficClass, str]
) -> None:
    routes = tuple(structs.replace(SERVED, traffic=each) for each in dict.fromkeys([INTERNAL, external]))
    name = ServicePortName("kube-system", "dns", "dns", Protocol.UDP)
    port = ServicePort(name, tuple(portals), routes, external, on_node)
    found = {each.listener.traffic: each.portal for each in snapshots_of(port) if each.portal is not None}
    assert found == {traffic: PortalAddress(ip, Protocol.UDP, 53) for traffic, ip in known.items()}
    of_tcp = structs.replace(port, name=structs.replace(name, protocol=Protocol.TCP))
    assert not [each for each in snapshots_of(of_tcp) if each.portal is not None]


def test_whose_address_endpoints_see_touches_no_rule_and_no_listener() -> None:
    web = a_port("web", node_port=30080)
    for changed in (
        structs.replace(web, client_address=ClientAddress.KEEP),
        structs.replace(web, sends_proxy=ProxyProtocol.V1),
        structs.replace(web, accepts_proxy=ProxyProtocol.V2),
        structs.replace(web, routes=(structs.replace(SERVED, nodes=("node-1",)),)),
    ):
        assert shape(changed) == shape(web)
        assert kinds(sync(wanted_of([changed]), settled(web))) == ["UpdateRoute"]


def test_a_gone_service_port_is_closed_after_its_rules() -> None:
    done = sync(Wanted(), settled(a_port("web", node_port=30080)))
    assert kinds(done) == ["rules", "CloseListener", "ReleasePort"]


def test_nothing_changed_nothing_to_do() -> None:
    web = a_port("web", node_port=30080)
    assert sync(wanted_of([web]), settled(web)) == []


def test_changed_endpoints_touch_no_rule_and_no_listener() -> None:
    web = a_port("web", node_port=30080)
    moved = structs.replace(web, routes=(structs.replace(SERVED, endpoints=(Endpoint("10.0.0.2", 80),)),))
    (snapshot,) = snapshots_of(moved)
    wanted = wanted_of([moved])
    assert plan_routes([web.name], wanted, settled(web), no_circles(wanted)) == (UpdateRoute(snapshot),)
    assert sync(wanted, settled(web)) == [UpdateRoute(snapshot)]


@pytest.mark.parametrize("verdict", [Verdict.REJECT, Verdict.DROP])
def test_without_endpoints_the_listener_stays_and_rules_say_so(verdict: Verdict) -> None:
    web = a_port("web", node_port=30080)
    actual = settled(web)
    empty = structs.replace(web, routes=(Route(TrafficClass.INTERNAL, verdict),))
    assert kinds(sync(wanted_of([empty]), actual)) == ["UpdateRoute", "rules"]
    found = actual.programmed[web.name]
    assert found.internal == found.external == found.on_node == Target(verdict)
    assert kinds(sync(wanted_of([web]), actual)) == ["UpdateRoute", "rules"]
    assert actual.programmed == settled(web).programmed


@pytest.mark.parametrize(
    "edited",
    [a_port("web", ip="10.96.0.99", node_port=30080), a_port("web", node_port=30081), a_port("web")],
    ids=["cluster IP", "node port", "no node port"],
)
def test_an_edited_service_port_keeps_its_listener(edited: ServicePort) -> None:
    actual = settled(a_port("web", node_port=30080))
    local_port = actual.local_ports[listener(edited)]
    assert not {"OpenListener", "CloseListener"} & set(kinds(sync(wanted_of([edited]), actual)))
    assert actual.programmed == {edited.name: plain_binding(edited, local_port)}


def test_another_policy_gets_a_listener_of_its_own_and_the_first_stays() -> None:
    web = a_port("web", node_port=30080)
    actual = settled(web)
    internal = actual.local_ports[listener(web)]
    assert kinds(sync(wanted_of([with_local_policy(web)]), actual)) == ["OpenListener", "UpdateRoute", "rules"]
    found = actual.programmed[web.name]
    external = actual.local_ports[listener(web, TrafficClass.EXTERNAL)]
    assert external != internal
    assert (found.internal, found.external, found.on_node) == (
        Target(Verdict.SERVE, internal),
        Target(Verdict.SERVE, external, TrafficClass.EXTERNAL),
        Target(Verdict.SERVE, internal),
    )
    assert kinds(sync(wanted_of([web]), actual)) == ["rules", "CloseListener"]
    assert actual.programmed == {web.name: plain_binding(web, internal)}


def test_traffic_whose_listener_could_not_be_opened_is_refused() -> None:
    local = with_local_policy(a_port("web", node_port=30080))
    claims = {local.name: {Claim("", Protocol.TCP, 30080)}}
    found = binding(
        local.name, wanted_of([local]), Actual(local_ports={listener(local): 41234}, claims=claims), NOWHERE
    )
    assert found is not None
    assert (found.internal, found.external) == (Target(Verdict.SERVE, 41234), Target(Verdict.REJECT))
    without = binding(local.name, wanted_of([local]), Actual(), NOWHERE)
    assert without is not None
    assert {without.internal, without.external, without.on_node} == {Target(Verdict.REJECT)}
    assert binding(local.name, wanted_of([]), Actual(), NOWHERE) is None


def test_the_ports_that_an_earlier_process_had_are_preferred() -> None:
    web = with_local_policy(a_port("web"))
    wanted = wanted_of([web])
    assert plan(web.name, wanted, Actual(), NOWHERE, no_circles(wanted), (41234, 41235)).before[:2] == (
        OpenListener(listener(web), 41234, Verdict.SERVE),
        OpenListener(listener(web, TrafficClass.EXTERNAL), 41235, Verdict.SERVE),
    )


def test_two_services_may_swap_node_ports_in_one_sync() -> None:
    a, b = a_port("a", ip="10.96.0.1", node_port=30001), a_port("b", ip="10.96.0.2", node_port=30002)
    actual = settled(a, b)
    held = dict(actual.holders)
    swapped = wanted_of([a_port("a", ip="10.96.0.1", node_port=30002), a_port("b", ip="10.96.0.2", node_port=30001)])
    sync(swapped, actual)
    assert actual.holders == held
    assert {str(p) for each in actual.programmed.values() for p in each.portals if not p.ip} == {
        "node port 30001",
        "node port 30002",
    }


class TestClaims:
    EXTERNAL = Portal(PortalKind.EXTERNAL_IP, "192.0.2.10", 443)

    def test_nothing_is_held_but_node_ports(self) -> None:
        web = structs.replace(a_port("web", node_port=30080), portals=(self.EXTERNAL, Portal(NODE_PORT, "", 30080)))
        actual = Actual()
        sync(wanted_of([web]), actual, LocalAddresses(frozenset({"192.0.2.10"})))
        assert actual.claims == {web.name: {Claim("", Protocol.TCP, 30080)}}
        assert actual.programmed[web.name].portals == web.portals

    def test_a_node_port_that_is_not_held_is_not_programmed(self) -> None:
        web = a_port("web", node_port=30080)
        found = binding(web.name, wanted_of([web]), Actual(local_ports={listener(web): 41234}), NOWHERE)
        assert found is not None
        assert found.portals == a_port("web").portals

    def test_node_ports_may_be_restricted_to_some_addresses(self) -> None:
        web = a_port("web", node_port=30080)
        ips = ("192.0.2.10", "192.0.2.11")
        actual = Actual()
        sync(wanted_of([web]), actual, LocalAddresses(frozenset(ips), ips))
        assert [portal.ip for portal in actual.programmed[web.name].portals] == ["10.96.0.1", *ips]
        assert {claim.ip for claim in actual.holders} == {*ips}
        sync(wanted_of([web]), actual, LocalAddresses(frozenset(ips), ()))
        assert actual.programmed[web.name].portals == a_port("web").portals
        assert not actual.holders


def _any_port(
    name: str, ip: int, node_port: int, endpoint: int, policy: Verdict | None, on_local_address: bool
) -> ServicePort:
    portals = [Portal(PortalKind.CLUSTER_IP, f"10.96.0.{ip}", 80)]
    portals += [Portal(PortalKind.EXTERNAL_IP, "192.0.2.10", 80)] if on_local_address else []
    portals += [Portal(PortalKind.NODE_PORT, "", node_port)] if node_port else []
    routes = (Route(TrafficClass.INTERNAL, Verdict.SERVE, (Endpoint(f"10.0.0.{endpoint}", 80),)),)
    port = ServicePort(a_name(name), tuple(portals), routes)
    return port if policy is None else with_local_policy(port, policy)


service_ports = st.builds(
    _any_port,
    st.sampled_from("abcde"),
    st.integers(1, 4),
    st.sampled_from([0, 30001, 30002, 30003]),
    st.integers(1, 3),
    st.none() | st.sampled_from(Verdict),
    st.booleans(),
)
worlds = st.lists(service_ports, max_size=6).map(lambda ports: {port.name: port for port in ports})


@given(st.lists(worlds, min_size=1, max_size=6))
def test_any_sequence_of_worlds_ends_in_the_last_one(sequence: list[dict[ServicePortName, ServicePort]]) -> None:
    actual = Actual()
    for ports in sequence:
        before = dict(actual.local_ports)
        sync(wanted_of(ports.values()), actual)
        listeners = {name for port in ports.values() for name in port.listeners}
        for name in before.keys() & listeners:
            assert actual.local_ports[name] == before[name], "a listener was moved without need"
    granted = grant_portals(ports.values())
    assert actual.local_ports.keys() == listeners
    assert actual.snapshots == {each.listener: each for port in ports.values() for each in snapshots_of(port)}
    claims = {claim_of(name, portal) for name, portals in granted.portals.items() for portal in portals}
    assert actual.holders.keys() == claims - {None}
    assert {name: each.portals for name, each in actual.programmed.items()} == dict(granted.portals)
    assert sync(wanted_of(ports.values()), actual) == []
