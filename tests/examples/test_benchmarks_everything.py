"""All benchmarks in one go: each within its time, and a report that says how busy the machine was."""

from pathlib import Path

from examples.benchmarks.__main__ import BY_NAME
from examples.benchmarks.everything import PARTS, Outcome, Part, run, to_text

CALLS = Part("calls", ("calls", "--help"), 60, json=False)


def test_every_part_is_a_benchmark() -> None:
    assert {part.arguments[0] for part in PARTS if not part.arguments[0].startswith("-")} <= BY_NAME.keys()


def test_a_part_gives_its_output(tmp_path: Path) -> None:
    outcome = run(CALLS, tmp_path)
    assert outcome.failure == ""
    assert "Usage: python -m examples.benchmarks calls" in outcome.text


def test_a_part_that_takes_too_long_is_ended_and_said_to_have_been(tmp_path: Path) -> None:
    assert run(Part("calls", ("calls",), 0.01, json=False), tmp_path).failure == "not done within 0.01 s"


def test_a_part_that_fails_leaves_its_last_words(tmp_path: Path) -> None:
    outcome = run(Part("calls", ("calls", "--no-such-option"), 60, json=False), tmp_path)
    assert "No such option" in outcome.failure


def test_the_report_says_what_was_run_and_whether_others_had_the_machine() -> None:
    quiet = Outcome(CALLS, "figures\n", "", 12.4, 0.1, 0.2)
    busy = Outcome(Part("growth", ("growth",), 60), "", "not done within 60 s", 60.0, 40_000.0, 3.0)
    text = to_text([quiet, busy])
    assert "`python -m examples.benchmarks calls --help`\n\n12 s; load average 0.1 before, 0.2 after\n" in text
    assert "```\nfigures\n```" in text
    assert "60 s; load average 40000.0 before, 3.0 after: **a busy machine**\n\nFailed: not done within 60 s" in text
