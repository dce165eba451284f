"""What actions do and leave behind, and what the log says of listeners, endpoints and rules."""

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from tests.proxier.test_proxier import WEB, WEB_LISTENER, Nodes, World
from userproxy.errors import PortUnavailableError
from userproxy.model import Endpoint, IPFamily, Portal, PortalKind, Protocol, ServicePort, Snapshot, Verdict
from userproxy.proxier.executor import Claimed, Executor, Listed, LoopLog, RulesLog
from userproxy.proxier.plan import Actual, Claim, ClaimPort, CloseListener, OpenListener, ReleasePort, UpdateRoute
from userproxy.proxier.wanted import Wanted

COUNTS = {"nat": 4, "filter": 1}


def test_the_first_time_and_repairs_are_told_to_everybody() -> None:
    rules_log = RulesLog(IPFamily.IPV4)
    with capture_logs() as logs:
        rules_log.written(COUNTS, 0.1234567, service_ports=2, removed=0, differed=True)
        rules_log.written(COUNTS, 0.1, service_ports=0, removed=0, differed=False)
        rules_log.written(COUNTS, 0.1, service_ports=1, removed=0, differed=False)
        rules_log.written(COUNTS, 0.1, service_ports=0, removed=1, differed=True)
        rules_log.written(COUNTS, 0.2, service_ports=0, removed=0, differed=True)
    first, came, went, repaired = logs
    assert first == {
        "event": "Rules written", "log_level": "info", "family": "IPv4",
        "service_ports": 2, "rules": 5, "seconds": 0.123,
    }  # fmt: skip
    assert [(each["log_level"], each["service_ports"], each["removed"]) for each in (came, went)] == [
        ("debug", 1, 0),
        ("debug", 0, 1),
    ]
    assert (repaired["event"], repaired["log_level"], repaired["rules"], repaired["seconds"]) == (
        "Rules repaired, because something else had changed them", "info", 5, 0.2,
    )  # fmt: skip


def test_rules_that_are_right_already_are_no_news_nor_are_those_of_a_driver_that_has_none() -> None:
    with capture_logs() as logs:
        RulesLog(IPFamily.IPV4).written(COUNTS, 0.1, service_ports=0, removed=0, differed=False)
        RulesLog(IPFamily.IPV4).written({}, 0.1, service_ports=1, removed=0, differed=False)
    assert logs == []


@pytest.mark.parametrize(
    ("listed", "text"),
    [
        (Listed(()), ""),
        (Listed((Endpoint("10.0.0.1", 80), Endpoint("fd00::1", 80))), "10.0.0.1:80 [fd00::1]:80"),
    ],
)
def test_lists(listed: Listed, text: str) -> None:
    assert repr(listed) == text


def test_portals_that_a_line_of_the_log_has() -> None:
    wanted = Wanted()
    portals = Portal(PortalKind.CLUSTER_IP, "10.96.0.1", 80), Portal(PortalKind.NODE_PORT, "", 30080)
    wanted.put(ServicePort(WEB, portals))
    assert repr(Claimed(wanted, WEB)) == "cluster IP 10.96.0.1:80, node port 30080"
    assert repr(Claimed(wanted, structs.replace(WEB, name="other"))) == ""


CLAIM, NODE_PORT = Claim("", Protocol.TCP, 30080), Portal(PortalKind.NODE_PORT, "", 30080)
OTHER = structs.replace(WEB, name="other")
SNAPSHOT = Snapshot(WEB_LISTENER, Verdict.SERVE, (Endpoint("10.0.0.1", 8080),))


def an_executor(world: World) -> tuple[Executor, Actual]:
    actual = Actual()
    return Executor(actual, Wanted(), world, world, Nodes()), actual


def test_a_listener_opens_gets_routes_and_closes() -> None:
    world = World()
    executor, actual = an_executor(world)
    executor.perform(OpenListener(WEB_LISTENER, 41234, Verdict.DROP))
    executor.perform(UpdateRoute(SNAPSHOT))
    assert world.opened_as == {WEB_LISTENER: Verdict.DROP}
    assert actual.local_ports == world.open_ports == {WEB_LISTENER: 41234}
    assert actual.snapshots == world.routes == {WEB_LISTENER: SNAPSHOT}
    executor.perform(CloseListener(WEB_LISTENER))
    assert (actual.local_ports, actual.snapshots, world.open_ports) == ({}, {}, {})


def test_a_route_of_a_listener_that_could_not_be_opened_goes_nowhere() -> None:
    world = World()
    executor, actual = an_executor(world)
    executor.perform(UpdateRoute(SNAPSHOT))
    assert (world.routes, actual.snapshots) == ({}, {})


def test_a_port_that_two_need_is_held_once_and_until_neither_does() -> None:
    world = World()
    executor, _ = an_executor(world)
    for owner in (WEB, OTHER):
        executor.perform(ClaimPort(CLAIM, NODE_PORT, owner))
    executor.perform(ReleasePort(CLAIM, WEB))
    assert world.held == {("", 30080)}
    executor.perform(ReleasePort(CLAIM, OTHER))
    assert world.held == set()


def test_a_port_that_cannot_be_had_is_not_accounted_for() -> None:
    world = World()
    world.taken_by_others = {30080}
    executor, actual = an_executor(world)
    with pytest.raises(PortUnavailableError):
        executor.perform(ClaimPort(CLAIM, NODE_PORT, WEB))
    assert (actual.claims, actual.holders) == ({}, {})


def warned(log: LoopLog, *endpoints: Endpoint, presumed: bool = False) -> list[str]:
    with capture_logs() as logs:
        log.left_out(WEB_LISTENER, endpoints, presumed=presumed)
    return [line["event"] for line in logs]


def test_endpoints_that_loop_are_named_once_and_again_when_they_change() -> None:
    log, a, b = LoopLog(), Endpoint("10.96.0.1", 80), Endpoint("10.96.0.2", 80)
    (text,) = warned(log, a)
    assert text.endswith("not used as an endpoint: 10.96.0.1:80; a portal, it leads back here")
    assert warned(log, a) == []
    assert len(warned(log, a, b)) == 1
    assert warned(log) == []
    assert len(warned(log, a, b)) == 1
    log.forget(WEB_LISTENER)
    (text,) = warned(log, a, b, presumed=True)
    assert text.endswith("10.96.0.2:80; a portal, or may be one until Nodes are looked up, it leads back here")


def test_of_many_endpoints_that_loop_five_are_named() -> None:
    (text,) = warned(LoopLog(), *(Endpoint(f"10.96.0.{n}", 80) for n in range(1, 9)))
    assert "10.96.0.5:80 and 3 more;" in text
