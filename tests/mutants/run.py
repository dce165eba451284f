"""mutmut in a copy of the checkout, which it fills with mutants: the checkout itself stays as it is."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from tests.mutants.score import Score, read_score

AREAS: Final = ("routing", "proxier", "portals", "forwarding")
"""Packages of userproxy whose tests are in the package of that name in tests."""

_ROOT: Final = Path(__file__).parents[2]

_CONFIGURATION: Final = """
[tool.mutmut]
source_paths = ["userproxy"]
only_mutate = ["{module}"]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "tests.mutants.plugin", "-m", "not slow", "--timeout=20"]
also_copy = ["tests", "examples"]
process_isolation = "forkserver"
timeout_multiplier = 4
timeout_constant = 5
do_not_mutate_patterns = ['log\\.(debug|info|warning|error)\\(', 'create_task\\(.*name=']
"""
"""What is said in a log line, and what a task is called, is no behaviour. A mutant that waits for ever is ended after
four times the usual time."""

_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
"""What a line of mutmut begins with while something is going on."""


def modules_of(targets: Iterable[str]) -> list[Path]:
    """What ``AREA``, ``AREA/FOLDER`` or ``AREA/MODULE`` name, as paths in the checkout. Raises SystemExit."""
    found: list[Path] = []
    for target in targets:
        path = _ROOT / "userproxy" / target
        is_known = target.partition("/")[0] in AREAS
        paths = sorted([*path.rglob("*.py"), *path.parent.glob(f"{path.name}.py")]) if is_known else []
        if not paths:
            raise SystemExit(f"{target}: there is no such area or module; areas are {', '.join(AREAS)}")
        found += [path.relative_to(_ROOT) for path in paths if path.name != "__init__.py"]
    return found


def files_for(module: Path, *, wide: bool = False) -> list[str]:
    """What a module is tried with: the test file of its own, or all of its area if `wide`, or where it has none."""
    return [str(Path("tests", module.parts[1]) if wide or not has_own_tests(module) else _own_tests(module))]


def has_own_tests(module: Path) -> bool:
    """Whether there is a test file of a module's name. Those of its area take minutes instead of seconds."""
    return (_ROOT / _own_tests(module)).exists()


def _own_tests(module: Path) -> Path:
    return Path("tests", *module.parts[1:-1], f"test_{module.stem}.py")


class Mutants:
    """The mutants of one module, in an empty `directory`, and the test files that are to notice them."""

    def __init__(self, directory: Path, module: Path, tests: Sequence[str], jobs: int) -> None:
        self._directory = directory
        self._jobs = jobs
        for name in _git_files():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_ROOT / name, directory / name)
        configuration = _CONFIGURATION.format(module=module, tests=list(tests))
        with (directory / "pyproject.toml").open("a") as file:
            file.write(configuration)

    def names(self, most: int | None, random: Random) -> list[str]:
        """The names of all mutants, or of at most so many, drawn at random."""
        self._mutmut("run", "none-is-called-so", check=False)  # makes them, and learns which test runs which function
        made = [
            name
            for path in sorted((self._directory / "mutants").rglob("*.meta"))
            for name in msgspec.json.decode(path.read_bytes())["exit_code_by_key"]
        ]
        return made if most is None or most >= len(made) else sorted(random.sample(made, most))

    def test(self, names: Sequence[str]) -> Score:
        """Run the tests against each of these mutants."""
        if not names:
            return Score()
        self._mutmut("run", "--max-children", str(self._jobs), *names)
        return read_score(self._mutmut("results", "--all", "true").splitlines(), names)

    def diff(self, name: str) -> str:
        """What a mutant changes."""
        return self._mutmut("show", name, check=False)

    def _mutmut(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", *arguments],
            cwd=self._directory,
            env={**os.environ, "PYTHONPATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and done.returncode:
            said = "\n".join(line for line in done.stdout.splitlines() if line[:1] not in _SPINNER)
            raise SystemExit(f"mutmut {arguments[0]} failed:\n{said[-3000:]}")
        return done.stdout


def commit() -> str:
    """The id of the commit that is checked out."""
    return _git("rev-parse", "HEAD").strip()


def _git_files() -> list[str]:
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return [name for name in listed.split("\0") if name and (_ROOT / name).is_file()]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True).stdout
