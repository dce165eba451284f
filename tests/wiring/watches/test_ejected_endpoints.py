"""Endpoints that are ejected are told of once for each episode, as problems of their Services."""

from typing import cast

from structlog.testing import capture_logs

from userproxy.model import Endpoint, ListenerName, ProblemKind, Protocol, ServiceName, ServicePortName, TrafficClass
from userproxy.model.balancer_reports import EjectedEndpoint
from userproxy.model.data_plane import DataPlane
from userproxy.wiring.watches.ejected_endpoints import EjectedEndpointsWatch, problems_of

NAME = ServicePortName("default", "web", "http", Protocol.TCP)
REASON = "3 failures in a row: Connection refused"


def ejected(
    number: int = 1, since: float = 1769860800.0, traffic: TrafficClass = TrafficClass.INTERNAL
) -> EjectedEndpoint:
    return EjectedEndpoint(ListenerName(NAME, traffic=traffic), Endpoint(f"10.0.0.{number}", 80), since, REASON)


class Plane:
    found: tuple[EjectedEndpoint, ...] = ()

    async def ejected_endpoints(self) -> tuple[EjectedEndpoint, ...]:
        return self.found


def test_it_is_a_problem_of_the_service_on_this_node() -> None:
    (problem,) = problems_of([ejected()])
    assert (problem.service, problem.kind, problem.here) == (
        ServiceName("default", "web"),
        ProblemKind.ENDPOINT_EJECTED,
        True,
    )
    assert problem.text == (
        f"default/web:http: endpoint 10.0.0.1:80 gets no new connections since 12:00:00 UTC: {REASON}"
    )


def test_a_service_has_a_few_at_most() -> None:
    assert len(problems_of([ejected(number) for number in range(100)])) == 10


async def test_an_episode_is_told_once_whoever_finds_out_and_whenever() -> None:
    plane, told = Plane(), []
    watch = EjectedEndpointsWatch(cast(DataPlane, plane), lambda: told.append(watch.problems))
    with capture_logs() as logs:
        for found in (
            (),
            (ejected(since=5.0),),
            (ejected(since=5.0), ejected(since=4.0, traffic=TrafficClass.EXTERNAL)),
            (ejected(since=9.0, traffic=TrafficClass.EXTERNAL),),
            (ejected(since=9.0), ejected(2, since=10.0)),
            (),
            (ejected(since=70.0),),
        ):
            plane.found = found
            await watch.look()
    assert [len(problems) for problems in told] == [1, 2, 0, 1]
    assert told[0] != told[3], "another episode"
    assert [(line["event"], line["endpoint"]) for line in logs] == [
        ("Endpoint ejected", "10.0.0.1:80"),
        ("Endpoint ejected", "10.0.0.2:80"),
        ("Endpoint not ejected any more", "10.0.0.1:80"),
        ("Endpoint not ejected any more", "10.0.0.2:80"),
        ("Endpoint ejected", "10.0.0.1:80"),
    ]
