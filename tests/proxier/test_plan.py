"""The plan, run by a small pure interpreter: whatever there was, what is wanted comes out, in a safe order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.model import Endpoint, Portal, PortalBinding, PortalKind, Protocol, ServicePort, ServicePortName
from userproxy.proxier.plan import (
    Action,
    Actual,
    ClaimNodePort,
    CloseListener,
    OpenListener,
    ReleaseNodePort,
    SyncPortals,
    UpdateRoute,
    bindings,
    grant_portals,
    node_ports,
    plan,
    snapshot_of,
)


def a_name(name: str) -> ServicePortName:
    return ServicePortName("default", name, "http", Protocol.TCP)


def a_port(name: str, *, ip: str = "10.96.0.1", node_port: int = 0, created: str = "") -> ServicePort:
    portals = [Portal(PortalKind.CLUSTER_IP, ip, 80)]
    if node_port:
        portals.append(Portal(PortalKind.NODE_PORT, "", node_port))
    return ServicePort(a_name(name), tuple(portals), (Endpoint("10.0.0.1", 80),), created=created)


def by_name(*ports: ServicePort) -> dict[ServicePortName, ServicePort]:
    return {port.name: port for port in ports}


def kinds(actions: tuple[Action, ...]) -> list[str]:
    return [type(action).__name__ for action in actions]


def perform(actions: tuple[Action, ...], actual: Actual, wanted: dict[ServicePortName, ServicePort]) -> None:
    """What the executor does, without anything to do it to; asserts that each step is safe."""
    granted = grant_portals(wanted.values())
    for action in actions:
        match action:
            case OpenListener(name, preferred):
                assert name not in actual.local_ports
                actual.local_ports[name] = preferred or 40_000 + len(actual.local_ports)
            case ClaimNodePort(protocol, port):
                assert (protocol, port) not in actual.node_ports
                actual.node_ports.add((protocol, port))
            case UpdateRoute(snapshot):
                assert snapshot.name in actual.local_ports
                actual.snapshots[snapshot.name] = snapshot
            case SyncPortals():
                actual.programmed = bindings(granted, actual)
                for binding in actual.programmed:
                    assert binding.name in actual.snapshots, "a rule leads to a listener that has no route yet"
            case CloseListener(name):
                assert all(binding.name != name for binding in actual.programmed or ()), "a rule leads to it"
                del actual.local_ports[name]
                actual.snapshots.pop(name, None)
            case ReleaseNodePort(protocol, port):
                for binding in actual.programmed or ():
                    assert (protocol, port) not in node_ports(binding.name, binding.portals), "a rule still has it"
                actual.node_ports.discard((protocol, port))


def planned(wanted: dict[ServicePortName, ServicePort], actual: Actual, *, verify: bool = False) -> tuple[Action, ...]:
    return plan(wanted, grant_portals(wanted.values()), actual, {}, verify=verify)


def settled(*ports: ServicePort) -> Actual:
    actual = Actual()
    perform(planned(by_name(*ports), actual), actual, by_name(*ports))
    return actual


def test_a_new_service_port_is_opened_claimed_routed_and_programmed_in_this_order() -> None:
    actions = planned(by_name(a_port("web", node_port=30080)), Actual())
    assert kinds(actions) == ["OpenListener", "ClaimNodePort", "UpdateRoute", "SyncPortals"]


def test_a_gone_service_port_is_closed_after_its_rules() -> None:
    actions = planned({}, settled(a_port("web", node_port=30080)))
    assert kinds(actions) == ["SyncPortals", "CloseListener", "ReleaseNodePort"]


def test_nothing_changed_nothing_to_do() -> None:
    web = a_port("web", node_port=30080)
    assert planned(by_name(web), settled(web)) == ()
    assert kinds(planned(by_name(web), settled(web), verify=True)) == ["SyncPortals"]


def test_changed_endpoints_touch_no_rule_and_no_listener() -> None:
    web = a_port("web", node_port=30080)
    moved = ServicePort(web.name, web.portals, (Endpoint("10.0.0.2", 80),))
    assert planned(by_name(moved), settled(web)) == (UpdateRoute(snapshot_of(moved)),)


@pytest.mark.parametrize(
    "edited",
    [a_port("web", ip="10.96.0.99", node_port=30080), a_port("web", node_port=30081), a_port("web")],
    ids=["cluster IP", "node port", "no node port"],
)
def test_an_edited_service_port_keeps_its_listener(edited: ServicePort) -> None:
    actual = settled(a_port("web", node_port=30080))
    local_port = actual.local_ports[edited.name]
    actions = planned(by_name(edited), actual)
    assert not {"OpenListener", "CloseListener"} & set(kinds(actions))
    perform(actions, actual, by_name(edited))
    assert actual.programmed == (PortalBinding(edited.name, local_port, edited.portals),)


def test_the_port_that_an_earlier_process_had_is_preferred() -> None:
    web = a_port("web")
    actions = plan(by_name(web), grant_portals([web]), Actual(), {web.name: 41234}, verify=False)
    assert actions[0] == OpenListener(web.name, 41234)


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
        assert actual.programmed == (PortalBinding(b.name, actual.local_ports[b.name], b.portals),)


service_ports = st.builds(
    lambda name, ip, node_port, endpoint: ServicePort(
        a_name(name),
        (
            Portal(PortalKind.CLUSTER_IP, f"10.96.0.{ip}", 80),
            *([Portal(PortalKind.NODE_PORT, "", node_port)] if node_port else []),
        ),
        (Endpoint(f"10.0.0.{endpoint}", 80),),
    ),
    st.sampled_from("abcde"),
    st.integers(1, 4),
    st.sampled_from([0, 30001, 30002, 30003]),
    st.integers(1, 3),
)
worlds = st.lists(service_ports, max_size=6).map(lambda ports: by_name(*ports))


@given(st.lists(worlds, min_size=1, max_size=6))
def test_any_sequence_of_worlds_ends_in_the_last_one(sequence: list[dict[ServicePortName, ServicePort]]) -> None:
    actual = Actual()
    for wanted in sequence:
        before = dict(actual.local_ports)
        perform(planned(wanted, actual), actual, wanted)
        for name in before.keys() & wanted.keys():
            assert actual.local_ports[name] == before[name], "a listener was moved without need"
    granted = grant_portals(wanted.values())
    assert actual.local_ports.keys() == wanted.keys()
    assert actual.snapshots == {name: snapshot_of(port) for name, port in wanted.items()}
    assert actual.node_ports == {np for name, portals in granted.portals.items() for np in node_ports(name, portals)}
    assert {b.name: b.portals for b in actual.programmed or ()} == dict(granted.portals)
    assert planned(wanted, actual) == ()
