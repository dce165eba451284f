"""Several workers of pytest-xdist begin with the long tests."""

import re
from itertools import groupby
from pathlib import Path

import pytest

from tests.order import LONG, LONGEST, ordered

ROOT = Path(__file__).parents[1]

WORKERS = [2, 3, 4, 6]

SHORT = [f"tests/routing/test_{file}.py::test_{number}" for file in "abc" for number in range(30)]
LONG_FILES = {"a": 7, "b": 2, "c": 6, "d": 5}
WITH_PROGRAMS = [
    f"tests/e2e/test_{file}.py::test_{number}" for file, most in LONG_FILES.items() for number in range(most)
]
SLOWEST = [f"{LONGEST[1]}[{number}]" for number in range(6)]
NAMES = [*SHORT[:40], *WITH_PROGRAMS[:12], *SLOWEST, *WITH_PROGRAMS[12:], *SHORT[40:]]


def shares(names: list[str], workers: int) -> list[list[str]]:
    """What each worker begins with: ``worksteal`` gives the first an equal part, then the others the rest."""
    if not workers:
        return []
    first = len(names) // workers
    return [names[:first], *shares(names[first:], workers - 1)]


def kinds(names: list[str]) -> list[str]:
    """Of what kinds they are, in the order in which they are tried."""
    return [
        kind
        for kind, _ in groupby(
            "longest" if name.startswith(LONGEST) else "long" if name.startswith(LONG) else "short" for name in names
        )
    ]


@pytest.mark.parametrize("workers", WORKERS)
def test_none_is_lost_or_tried_twice(workers: int) -> None:
    assert sorted(ordered(NAMES, workers)) == sorted(NAMES)


@pytest.mark.parametrize("workers", WORKERS)
def test_every_worker_begins_with_long_tests_and_ends_with_short_ones(workers: int) -> None:
    for share in shares(ordered(NAMES, workers), workers):
        assert kinds(share) in (["longest", "long", "short"], ["longest", "short"], ["long", "short"])


@pytest.mark.parametrize("workers", WORKERS)
def test_the_longest_are_tried_by_as_many_workers_as_there_are(workers: int) -> None:
    found = [sum(name.startswith(LONGEST) for name in share) for share in shares(ordered(NAMES, workers), workers)]
    assert max(found) - min(found) <= 1


def test_tests_of_one_file_stay_together_in_their_order() -> None:
    """They may have a fixture in common, which another worker would have to set up again."""
    for share in shares(ordered(NAMES, 2), 2):
        programs = [name for name in share if name in WITH_PROGRAMS]
        files = [list(several) for _, several in groupby(programs, key=lambda name: name.partition("::")[0])]
        assert all(len(file) == LONG_FILES[file[0].partition("::")[0][-4]] for file in files)
        assert all(file == [name for name in WITH_PROGRAMS if name in file] for file in files)


@pytest.mark.parametrize("names", [[], WITH_PROGRAMS[:1], [*SLOWEST, *WITH_PROGRAMS]])
def test_few_tests_and_long_ones_alone(names: list[str]) -> None:
    assert sorted(ordered(names, 4)) == sorted(names)


def test_the_longest_and_the_folders_exist() -> None:
    """One that has another name by now would be begun late without a word."""
    for name in LONGEST:
        file, _, test = name.partition("::")
        assert re.search(rf"^(async )?def {test}\w*\(", (ROOT / file).read_text(), re.MULTILINE), name
    assert all((ROOT / folder).is_dir() for folder in LONG)


def test_this_run_is_in_that_order(request: pytest.FixtureRequest) -> None:
    workers: int = getattr(request.config, "workerinput", {}).get("workercount", 1)
    for share in shares([item.nodeid for item in request.session.items], workers) if workers > 1 else []:
        assert kinds(share) in (
            [],
            *(["longest", "long", "short"][first:end] for first in range(3) for end in (1, 2, 3)),
        )
