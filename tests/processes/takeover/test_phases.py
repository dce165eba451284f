"""What is said of the phases of a pause."""

import time

from userproxy.processes.takeover.phases import Phases


def test_phases_follow_each_other_and_add_up() -> None:
    before = time.monotonic()
    phases = Phases()
    phases.reached("first")
    phases.reached("second")
    assert list(phases.found) == ["first", "second"]
    assert before <= phases.began
    assert 0 <= phases.seconds <= time.monotonic() - before
    wall = sum(seconds for seconds, _ in phases.found.values())
    assert abs(wall - phases.seconds) < 0.0001, "but for what is rounded"
