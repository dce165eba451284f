"""What of the problems becomes Events."""

from typing import cast

from userproxy.model import Problem, ProblemKind, ServiceName
from userproxy.telemetry.event_series import Reason
from userproxy.telemetry.events import Recorder
from userproxy.telemetry.problem_events import ProblemEvents, _selected


def test_of_thousands_of_services_without_a_descriptor_a_few_are_told_always_the_same_ones() -> None:
    crowded = [
        Problem(ServiceName("shop", f"s{n:05}"), ProblemKind.OUT_OF_DESCRIPTORS, f"shop/s{n:05}: not served")
        for n in range(20_000)
    ]
    taken = Problem(ServiceName("shop", "web"), ProblemKind.PORT_CONFLICT, "shop/web: taken")
    assert set(_selected([*crowded[::-1], taken])) == {*crowded[:10], taken}
    assert set(_selected(crowded[5:])) == {*crowded[5:15]}


class Recorded:
    def __init__(self) -> None:
        self.events: list[tuple[ServiceName, Reason, str, bool]] = []

    def about_service(self, service: ServiceName, reason: Reason, note: str, *, here: bool) -> None:
        self.events.append((service, reason, note, here))


def test_a_problem_is_recorded_when_it_comes_and_when_it_comes_again() -> None:
    recorded, web = Recorded(), ServiceName("shop", "web")
    events = ProblemEvents(cast(Recorder, recorded))
    taken = Problem(web, ProblemKind.PORT_CONFLICT, "taken", here=True)
    events.report([taken])
    events.report([taken])
    assert recorded.events == [(web, Reason.PORT_CONFLICT, "taken", True)]
    events.report([])
    events.report([taken])
    assert len(recorded.events) == 2


def test_every_kind_of_problem_has_a_reason() -> None:
    recorded, web = Recorded(), ServiceName("shop", "web")
    ProblemEvents(cast(Recorder, recorded)).report([Problem(web, kind, kind.value) for kind in ProblemKind])
    assert len({reason for _, reason, _, _ in recorded.events}) == len(ProblemKind)
