"""Which problems of Services become Kubernetes events."""

from collections.abc import Iterable, Iterator
from heapq import nsmallest
from typing import Final

from userproxy.model import Problem, ProblemKind
from userproxy.telemetry.event_series import Reason
from userproxy.telemetry.events import Recorder

_REASONS: Final = {
    ProblemKind.PORT_CONFLICT: Reason.PORT_CONFLICT,
    ProblemKind.UNSUPPORTED_PROTOCOL: Reason.UNSUPPORTED_PROTOCOL,
    ProblemKind.BAD_ANNOTATION: Reason.BAD_ANNOTATION,
    ProblemKind.HEALTH_CHECK: Reason.HEALTH_CHECK_FAILED,
    ProblemKind.PORTALS_REFUSED: Reason.PORTALS_REFUSED,
    ProblemKind.OUT_OF_DESCRIPTORS: Reason.OUT_OF_DESCRIPTORS,
    ProblemKind.PORTALS_CONTESTED: Reason.PORTALS_CONTESTED,
    ProblemKind.CLIENT_ADDRESS_NOT_KEPT: Reason.CLIENT_ADDRESS_NOT_KEPT,
    ProblemKind.BALANCER_FAULTY: Reason.BALANCER_FAULTY,
    ProblemKind.ENDPOINT_EJECTED: Reason.ENDPOINT_EJECTED,
    ProblemKind.DATA_PROCESS_ENDED: Reason.DATA_PROCESS_ENDED,
}

_MOST_WITHOUT_DESCRIPTOR: Final = 10
"""Events about missing descriptors: thousands of Services may lack one, all for the same reason."""


class ProblemEvents:
    """Records an event for each problem when it is new."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._reported: frozenset[Problem] = frozenset()

    def report(self, problems: Iterable[Problem]) -> None:
        """Record the problems that were not there at the last call; `problems` are all that there are now."""
        current = frozenset(_selected(problems))
        for problem in sorted(current - self._reported, key=lambda each: each.text):
            reason = _REASONS[problem.kind]
            if problem.service is None:
                self._recorder.about_node(reason, problem.text)
            else:
                self._recorder.about_service(problem.service, reason, problem.text, here=problem.here)
        self._reported = current


def _selected(problems: Iterable[Problem]) -> Iterator[Problem]:
    """All problems, but only a few of those about missing descriptors."""
    without_descriptor = []
    for problem in problems:
        if problem.kind is ProblemKind.OUT_OF_DESCRIPTORS:
            without_descriptor.append(problem)
        else:
            yield problem
    yield from nsmallest(_MOST_WITHOUT_DESCRIPTOR, without_descriptor, key=lambda each: each.text)
