"""Balancers of other packages that are faulty are told of once, as problems of their Services."""

from typing import cast

from structlog.testing import capture_logs

from userproxy.model import ListenerName, ProblemKind, Protocol, ServiceName, ServicePortName, TrafficClass
from userproxy.model.balancer_reports import BalancerFault
from userproxy.model.data_plane import DataPlane
from userproxy.wiring.watches.balancer_faults import BalancerFaultsWatch

NAME = ServicePortName("default", "web", "http", Protocol.TCP)


def fault(reason: str, traffic: TrafficClass = TrafficClass.INTERNAL) -> BalancerFault:
    return BalancerFault(ListenerName(NAME, traffic=traffic), "by-moon", reason)


async def test_a_fault_is_told_once_whoever_finds_it_and_in_what_words() -> None:
    class Plane:
        found: tuple[BalancerFault, ...] = ()

        async def balancer_faults(self) -> tuple[BalancerFault, ...]:
            return self.found

    plane, told = Plane(), []
    watch = BalancerFaultsWatch(cast(DataPlane, plane), lambda: told.append(watch.problems))
    one, same, elsewhere = fault("it raised"), fault("another text"), fault("it raised", TrafficClass.EXTERNAL)
    with capture_logs() as logs:
        for found in ((), (one,), (same, one), (elsewhere,), ()):
            plane.found = found
            await watch.look()
    assert [len(problems) for problems in told] == [1, 0]
    (problem,) = told[0]
    assert (problem.service, problem.kind, problem.here) == (
        ServiceName("default", "web"),
        ProblemKind.BALANCER_FAULTY,
        True,
    )
    assert problem.text == (
        "default/web:http: balancer by-moon is not used any more, and round-robin in its place: it raised"
    )
    assert [line["event"] for line in logs] == [problem.text]
