"""The sample of tests that are repeated with two data processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
E2E = ROOT / "tests" / "e2e"


def collected(*names: str) -> list[str]:
    """The tests of these files that a run with the sample would try, by file and name."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.data_processes", "-p", "no:cacheprovider", "--co", "-q"]
    environment = {name: value for name, value in os.environ.items() if name != "USERPROXY_TEST_WORKERS"}
    files = [str(E2E / name) for name in names]
    done = subprocess.run([*command, *files], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return [line.rpartition("/")[2] for line in done.stdout.splitlines() if "::" in line]


def test_each_of_them_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has another name by now would be left out without a word."""
    monkeypatch.setenv("USERPROXY_TEST_WORKERS", "2")  # which the module sets, and other tests are not to see
    from tests.data_processes import SAMPLE

    for name in (name for several in SAMPLE.values() for name in several):
        file, _, test = name.partition("::")
        assert re.search(rf"^def {test.partition('[')[0]}\w*\(", (E2E / file).read_text(), re.MULTILINE), name


def test_each_file_has_one_or_it_is_said_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tests say themselves that their proxy has two data processes; they run so anyway."""
    monkeypatch.setenv("USERPROXY_TEST_WORKERS", "2")
    from tests.data_processes import SAMPLE, WITHOUT

    of_the_sample = {name.partition("::")[0] for several in SAMPLE.values() for name in several}
    files = {file.name: file.read_text() for file in E2E.glob("test_*.py")}
    said = re.compile(r'"workers", \["0", "2"\]|"--workers", "2"')
    by_themselves = {name for name, text in files.items() if said.search(text)}
    assert by_themselves | of_the_sample | WITHOUT.keys() == files.keys()
    assert not WITHOUT.keys() & (by_themselves | of_the_sample)


def test_those_that_say_themselves_how_many_there_are_run_with_two() -> None:
    sample = collected("test_hold.py", "test_service_limits.py")
    (held,) = (name for name in sample if "test_held_clients_are_handed_over" in name)
    assert held.endswith("2-2]")
    (limited,) = (name for name in sample if "test_those_beyond_are_refused" in name)
    assert limited.endswith("[2]")
    assert len(sample) == 2, "others are not of the sample"
