"""What is said of a server that cannot be reached, and how often."""

from structlog.testing import capture_logs
from structlog.typing import EventDict

from userproxy.cluster.api_errors import Troubles


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def told(lines: list[EventDict], level: str = "warning") -> list[str]:
    return [line["event"] for line in lines if line["log_level"] == level]


def test_a_trouble_is_told_once_for_all_topics_and_its_end_once() -> None:
    troubles = Troubles(Clock())
    with capture_logs() as lines:
        for topic in ("services", "nodes", "services"):
            troubles.note(topic, "no way", "nothing")
        troubles.clear("services")
        troubles.clear("nodes")
        troubles.clear("nodes")
    assert told(lines) == ["no way"]
    assert told(lines, "info") == ["The API server answers again"]


def test_a_trouble_that_lasts_is_told_again_every_few_minutes_with_its_beginning() -> None:
    clock = Clock()
    troubles = Troubles(clock)
    times = []
    with capture_logs() as lines:
        for _ in range(1200):  # twenty minutes, a try a second
            before = len(told(lines))
            troubles.note("services", "no way", "the last state")
            if len(told(lines)) > before:
                times.append(clock.now - 1000.0)
            clock.now += 1
    assert times == [0, 60, 180, 420, 720, 1020]
    first, *others = [line for line in lines if line["log_level"] == "warning"]
    assert "since" not in first
    assert len({line["since"] for line in others}) == 1
    assert all(line["serving"] == "the last state" for line in others)


def test_a_new_episode_is_told_at_once() -> None:
    troubles = Troubles(Clock())
    with capture_logs() as lines:
        for _ in range(2):
            troubles.note("services", "no way", "nothing")
            troubles.clear("services")
    assert told(lines) == ["no way", "no way"]
