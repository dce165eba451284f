"""The plan, run by a small pure interpreter: whatever there was, what is wanted comes out, in a safe order."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from userproxy.model import (
    Endpoint,
    Lead,
    ListenerName,
    Portal,
    PortalBinding,
    PortalKind,
    Protocol,
    Route,
    ServicePort,
    ServicePortName,
    TrafficClass,
    Verdict,
)
from userproxy.proxier.plan import (
    Action,
    Actual,
    Claim,
    ClaimPort,
    CloseListener,
    OpenListener,
    ReleasePort,
    SyncPortals,
    UpdateRoute,
    bindings,
    claim_of,
    grant_portals,
    place_node_ports,
    plan,
    plan_routes,
    snapshots_of,
)

NODE_PORT = PortalKind.NODE_PORT
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
    lead = Lead(Verdict.SERVE, local_port)
    return PortalBinding(port.name, port.portals, lead, lead, lead)


def by_name(*ports: ServicePort) -> dict[ServicePortName, ServicePort]:
    return {port.name: port for port in ports}


def kinds(actions: tuple[Action, ...]) -> list[str]:
    return [type(action).__name__ for action in actions]


def led_to(binding: PortalBinding) -> set[int]:
    return {lead.local_port for lead in (binding.internal, binding.external, binding.on_node)} - {0}


def perform(
    actions: tuple[Action, ...],
    actual: Actual,
    wanted: dict[ServicePortName, ServicePort],
) -> None:
    """What the executor does, without anything to do it to; asserts that each step is safe."""
    granted = grant_portals(wanted.values())
    for action in actions:
        match action:
            case OpenListener(name, preferred):
                assert name not in actual.local_ports
                actual.local_ports[name] = preferred or max(actual.local_ports.values(), default=40_000) + 1
            case ClaimPort(claim):
                assert claim not in actual.claims
                actual.claims.add(claim)
            case UpdateRoute(snapshot):
                assert snapshot.listener in actual.local_ports
                actual.snapshots[snapshot.listener] = snapshot
            case SyncPortals():
                actual.programmed = bindings(wanted, granted, actual)
                routed = {actual.local_ports[name] for name in actual.snapshots}
                for binding in actual.programmed:
                    assert led_to(binding) <= routed, "a rule leads to a listener that has no route yet"
            case CloseListener(name):
                leads = {port for binding in actual.programmed or () for port in led_to(binding)}
                assert actual.local_ports[name] not in leads, "a rule leads to it"
                del actual.local_ports[name]
                actual.snapshots.pop(name, None)
            case ReleasePort(claim):
                for binding in actual.programmed or ():
                    needed = {claim_of(binding.name, portal) for portal in binding.portals}
                    assert claim not in needed, "a rule still has it"
                actual.claims.discard(claim)


def planned(
    wanted: dict[ServicePortName, ServicePort],
    actual: Actual,
    local_addresses: Collection[str] = (),
    *,
    verify: bool = False,
) -> tuple[Action, ...]:
    return plan(wanted, grant_portals(wanted.values()), actual, {}, local_addresses, verify=verify)


def settled(*ports: ServicePort) -> Actual:
    actual = Actual()
    perform(planned(by_name(*ports), actual), actual, by_name(*ports))
    return actual


def listener(port: ServicePort, traffic: TrafficClass = TrafficClass.INTERNAL) -> ListenerName:
    return ListenerName(port.name, port.family, traffic)


def test_a_new_service_port_is_opened_claimed_routed_and_programmed_in_this_order() -> None:
    actions = planned(by_name(a_port("web", node_port=30080)), Actual())
    assert kinds(actions) == ["OpenListener", "ClaimPort", "UpdateRoute", "SyncPortals"]


def test_a_gone_service_port_is_closed_after_its_rules() -> None:
    actions = planned({}, settled(a_port("web", node_port=30080)))
    assert kinds(actions) == ["SyncPortals", "CloseListener", "ReleasePort"]


def test_nothing_changed_nothing_to_do() -> None:
    web = a_port("web", node_port=30080)
    assert planned(by_name(web), settled(web)) == ()
    assert kinds(planned(by_name(web), settled(web), verify=True)) == ["SyncPortals"]


def test_changed_endpoints_touch_no_rule_and_no_listener() -> None:
    web = a_port("web", node_port=30080)
    moved = structs.replace(web, routes=(structs.replace(SERVED, endpoints=(Endpoint("10.0.0.2", 80),)),))
    (snapshot,) = snapshots_of(moved)
    assert planned(by_name(moved), settled(web)) == (UpdateRoute(snapshot),)
    assert plan_routes(by_name(moved), grant_portals([moved]), [web.name], settled(web)) == (UpdateRoute(snapshot),)


@pytest.mark.parametrize("verdict", [Verdict.REJECT, Verdict.DROP])
def test_without_endpoints_the_listener_stays_and_rules_say_so(verdict: Verdict) -> None:
    web = a_port("web", node_port=30080)
    actual = settled(web)
    empty = structs.replace(web, routes=(Route(TrafficClass.INTERNAL, verdict),))
    actions = planned(by_name(empty), actual)
    assert kinds(actions) == ["UpdateRoute", "SyncPortals"]
    perform(actions, actual, by_name(empty))
    (binding,) = actual.programmed or ()
    assert binding.internal == binding.external == binding.on_node == Lead(verdict)
    back = planned(by_name(web), actual)
    assert kinds(back) == ["UpdateRoute", "SyncPortals"]
    perform(back, actual, by_name(web))
    assert actual.programmed == settled(web).programmed


@pytest.mark.parametrize(
    "edited",
    [a_port("web", ip="10.96.0.99", node_port=30080), a_port("web", node_port=30081), a_port("web")],
    ids=["cluster IP", "node port", "no node port"],
)
def test_an_edited_service_port_keeps_its_listener(edited: ServicePort) -> None:
    actual = settled(a_port("web", node_port=30080))
    local_port = actual.local_ports[listener(edited)]
    actions = planned(by_name(edited), actual)
    assert not {"OpenListener", "CloseListener"} & set(kinds(actions))
    perform(actions, actual, by_name(edited))
    assert actual.programmed == (plain_binding(edited, local_port),)


def test_another_policy_gets_a_listener_of_its_own_and_the_first_stays() -> None:
    web = a_port("web", node_port=30080)
    actual = settled(web)
    internal = actual.local_ports[listener(web)]
    local = with_local_policy(web)
    actions = planned(by_name(local), actual)
    assert kinds(actions) == ["OpenListener", "UpdateRoute", "SyncPortals"]
    perform(actions, actual, by_name(local))
    (binding,) = actual.programmed or ()
    external = actual.local_ports[listener(web, TrafficClass.EXTERNAL)]
    assert external != internal
    assert (binding.internal, binding.external, binding.on_node) == (
        Lead(Verdict.SERVE, internal),
        Lead(Verdict.SERVE, external),
        Lead(Verdict.SERVE, internal),
    )
    back = planned(by_name(web), actual)
    assert kinds(back) == ["SyncPortals", "CloseListener"]
    perform(back, actual, by_name(web))
    assert actual.programmed == (plain_binding(web, internal),)


def test_traffic_whose_listener_could_not_be_opened_is_refused() -> None:
    local = with_local_policy(a_port("web", node_port=30080))
    actual = Actual(local_ports={listener(local): 41234}, claims={Claim("", Protocol.TCP, 30080)})
    (binding,) = bindings(by_name(local), grant_portals([local]), actual)
    assert (binding.internal, binding.external) == (Lead(Verdict.SERVE, 41234), Lead(Verdict.REJECT))
    assert bindings(by_name(local), grant_portals([local]), Actual()) == ()


def test_the_ports_that_an_earlier_process_had_are_preferred() -> None:
    web = with_local_policy(a_port("web"))
    actions = plan(by_name(web), grant_portals([web]), Actual(), {web.name: (41234, 41235)}, verify=False)
    assert actions[:2] == (
        OpenListener(listener(web), 41234),
        OpenListener(listener(web, TrafficClass.EXTERNAL), 41235),
    )


def test_two_services_may_swap_node_ports_in_one_sync() -> None:
    a, b = a_port("a", ip="10.96.0.1", node_port=30001), a_port("b", ip="10.96.0.2", node_port=30002)
    actual = settled(a, b)
    swapped = by_name(a_port("a", ip="10.96.0.1", node_port=30002), a_port("b", ip="10.96.0.2", node_port=30001))
    actions = planned(swapped, actual)
    assert kinds(actions) == ["SyncPortals"]
    perform(actions, actual, swapped)
    assert {str(p) for b in actual.programmed or () for p in b.portals if not p.ip} == {
        "node port 30001",
        "node port 30002",
    }


class TestClaims:
    EXTERNAL = Portal(PortalKind.EXTERNAL_IP, "192.0.2.10", 443)

    def test_nothing_is_held_but_node_ports(self) -> None:
        web = structs.replace(a_port("web", node_port=30080), portals=(self.EXTERNAL, Portal(NODE_PORT, "", 30080)))
        actual = Actual()
        perform(planned(by_name(web), actual, {"192.0.2.10"}), actual, by_name(web))
        assert actual.claims == {Claim("", Protocol.TCP, 30080)}
        assert [binding.portals for binding in actual.programmed or ()] == [web.portals]

    def test_a_node_port_that_is_not_held_is_not_programmed(self) -> None:
        web = a_port("web", node_port=30080)
        actual = Actual(local_ports={listener(web): 41234})
        (binding,) = bindings(by_name(web), grant_portals([web]), actual)
        assert binding.portals == a_port("web").portals

    def test_node_ports_may_be_restricted_to_some_addresses(self) -> None:
        web = a_port("web", node_port=30080)
        placed = place_node_ports(grant_portals([web]), ("192.0.2.10", "192.0.2.11"))
        assert [portal.ip for portal in placed.portals[web.name]] == ["10.96.0.1", "192.0.2.10", "192.0.2.11"]
        actions = plan(by_name(web), placed, Actual(), {}, {"192.0.2.10", "192.0.2.11"}, verify=False)
        assert [action.claim.ip for action in actions if isinstance(action, ClaimPort)] == ["192.0.2.10", "192.0.2.11"]
        assert place_node_ports(grant_portals([web]), ()).portals[web.name] == a_port("web").portals


class TestConflicts:
    def test_the_oldest_service_has_the_node_port_and_the_other_is_named(self) -> None:
        young = a_port("a", ip="10.96.0.1", node_port=30080, created="2026-02-01T00:00:00Z")
        old = a_port("b", ip="10.96.0.2", node_port=30080, created="2026-01-01T00:00:00Z")
        granted = grant_portals([young, old])
        assert tuple(problem.text for problem in granted.conflicts) == (
            "default/a:http: node port 30080 (TCP) is not served, because default/b:http has it",
        )
        assert len(granted.portals[old.name]) == 2
        assert granted.portals[young.name] == young.portals[:1]

    def test_a_service_without_a_creation_time_is_the_youngest(self) -> None:
        dated = a_port("z", ip="10.96.0.1", node_port=30080, created="2026-02-01T00:00:00Z")
        undated = a_port("a", ip="10.96.0.2", node_port=30080)
        assert len(grant_portals([undated, dated]).portals[dated.name]) == 2

    @given(st.permutations([a_port(name, node_port=30080) for name in "abcd"]))
    def test_the_outcome_does_not_depend_on_the_order(self, ports: list[ServicePort]) -> None:
        assert grant_portals(ports) == grant_portals(reversed(ports))

    def test_protocols_do_not_conflict(self) -> None:
        tcp = a_port("dns", node_port=30053)
        udp = ServicePort(ServicePortName("default", "dns", "http", Protocol.UDP), tcp.portals)
        assert grant_portals([tcp, udp]).conflicts == ()

    def test_the_same_address_twice_in_one_service_is_one_portal(self) -> None:
        ip = "203.0.113.5"
        portals = (Portal(PortalKind.EXTERNAL_IP, ip, 80), Portal(PortalKind.LOAD_BALANCER_IP, ip, 80))
        granted = grant_portals([ServicePort(a_name("web"), portals)])
        assert granted.portals[a_name("web")] == portals[:1]
        assert granted.conflicts == ()

    def test_the_loser_gets_it_when_the_owner_goes(self) -> None:
        a, b = a_port("a", ip="10.96.0.1", node_port=30080), a_port("b", ip="10.96.0.2", node_port=30080)
        actual = settled(a, b)
        actions = planned(by_name(b), actual)
        perform(actions, actual, by_name(b))
        assert actual.programmed == (plain_binding(b, actual.local_ports[listener(b)]),)


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
worlds = st.tuples(
    st.lists(service_ports, max_size=6).map(lambda ports: by_name(*ports)), st.sampled_from([(), ("192.0.2.10",)])
)


@given(st.lists(worlds, min_size=1, max_size=6))
def test_any_sequence_of_worlds_ends_in_the_last_one(
    sequence: list[tuple[dict[ServicePortName, ServicePort], tuple[str, ...]]],
) -> None:
    actual = Actual()
    for wanted, addresses in sequence:
        before = dict(actual.local_ports)
        perform(planned(wanted, actual, addresses), actual, wanted)
        listeners = {name for port in wanted.values() for name in port.listeners}
        for name in before.keys() & listeners:
            assert actual.local_ports[name] == before[name], "a listener was moved without need"
    granted = grant_portals(wanted.values())
    assert actual.local_ports.keys() == listeners
    assert actual.snapshots == {each.listener: each for port in wanted.values() for each in snapshots_of(port)}
    claims = {claim_of(name, portal) for name, portals in granted.portals.items() for portal in portals}
    assert actual.claims == claims - {None}
    assert {b.name: b.portals for b in actual.programmed or ()} == dict(granted.portals)
    assert planned(wanted, actual, addresses) == ()
