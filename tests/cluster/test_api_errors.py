"""What is said of a server that cannot be reached, and how often."""

from structlog.testing import capture_logs
from structlog.typing import EventDict

from userproxy.cluster.api_errors import FailureLog


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def told(lines: list[EventDict], level: str = "warning") -> list[str]:
    return [line["event"] for line in lines if line["log_level"] == level]


def test_a_failure_is_logged_once_for_all_topics_and_its_end_once() -> None:
    failures = FailureLog(Clock())
    with capture_logs() as lines:
        for topic in ("services", "nodes", "services"):
            failures.failed(topic, "no way", "nothing")
        failures.succeeded("services")
        failures.succeeded("nodes")
        failures.succeeded("nodes")
    assert told(lines) == ["no way"]
    assert told(lines, "info") == ["The API server answers again"]


def test_a_failure_that_lasts_is_logged_again_every_few_minutes_with_its_beginning() -> None:
    clock = Clock()
    failures = FailureLog(clock)
    times = []
    with capture_logs() as lines:
        for _ in range(1200):  # twenty minutes, a try a second
            before = len(told(lines))
            failures.failed("services", "no way", "the last state")
            if len(told(lines)) > before:
                times.append(clock.now - 1000.0)
            clock.now += 1
    assert times == [0, 60, 180, 420, 720, 1020]
    first, *others = [line for line in lines if line["log_level"] == "warning"]
    assert "since" not in first
    assert len({line["since"] for line in others}) == 1
    assert all(line["serving"] == "the last state" for line in others)


def test_a_failure_after_a_success_is_logged_at_once() -> None:
    failures = FailureLog(Clock())
    with capture_logs() as lines:
        for _ in range(2):
            failures.failed("services", "no way", "nothing")
            failures.succeeded("services")
    assert told(lines) == ["no way", "no way"]
