"""Deadlines, on idle machines and on busy ones."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from userproxy.demo import waiting
from userproxy.demo.waiting import Deadline, DeadlineError, eventually, processors_were_wanted


class Machine:
    """Its clock, and how long somebody has waited for one of its processors."""

    def __init__(self) -> None:
        self.now = 100.0
        self.stalled = 7.0

    def runs(self, seconds: float, stalled: float = 0.0) -> None:
        self.now += seconds
        self.stalled += stalled

    def deadline(self, seconds: float) -> Deadline:
        return Deadline(seconds, lambda: self.now, lambda: self.stalled)


def test_seconds_of_an_idle_machine_count() -> None:
    machine = Machine()
    deadline = machine.deadline(30.0)
    assert deadline.left == 30.0
    machine.runs(29.0)
    assert deadline.left == 1.0
    machine.runs(1.5)
    assert deadline.left == 0.0


def test_of_seconds_in_which_somebody_waits_for_a_processor_a_third_counts() -> None:
    machine = Machine()
    deadline = machine.deadline(30.0)
    machine.runs(30.0, stalled=15.0)
    assert deadline.left == pytest.approx(10.0)
    machine.runs(29.9, stalled=29.9)
    assert deadline.left == pytest.approx(0.0333, abs=0.001)
    machine.runs(0.2, stalled=0.2)
    assert deadline.left == 0.0


def test_it_is_never_longer_than_three_times_what_was_asked_for() -> None:
    machine = Machine()
    deadline = machine.deadline(30.0)
    machine.runs(90.0, stalled=1000.0)
    assert deadline.left == pytest.approx(0.0)


def test_where_the_kernel_does_not_tell_all_seconds_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(waiting, "_PRESSURE", tmp_path / "cpu")
    assert processors_were_wanted() == 0.0
    (tmp_path / "cpu").write_text(
        "some avg10=1.00 avg60=2.00 avg300=3.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
    )
    assert processors_were_wanted() == 2.5


def test_a_condition_that_never_comes_true_is_named() -> None:
    with pytest.raises(DeadlineError, match=r"the sun shines did not come true within 0\.01 s"):
        eventually(lambda: False, 0.01, "the sun shines")


@pytest.mark.parametrize(
    ("answers_after", "pause"), [(0.0, 0.005), (0.001, 0.005), (0.02, 0.02), (0.05, 0.05), (15.0, 0.05)]
)
def test_a_condition_is_not_asked_more_than_half_of_the_time_where_it_is_quick_to_answer(
    monkeypatch: pytest.MonkeyPatch, answers_after: float, pause: float
) -> None:
    machine, pauses = Machine(), []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        machine.runs(seconds)

    def condition() -> bool:
        machine.runs(answers_after)
        return len(pauses) == 3

    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: machine.now, sleep=sleep))
    assert eventually(condition, 1000.0)
    assert pauses == pytest.approx([pause] * 3)
