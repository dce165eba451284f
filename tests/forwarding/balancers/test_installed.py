"""Entry points of installed packages: found by name, imported in a thread, once."""

import queue
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from userproxy.forwarding.balancers.installed import InstalledBalancers, InstalledNames, installed

ENTRY_POINTS = """
[userproxy.balancers]
good = its_balancers:Good
absent = no_such_module_at_all:Good
missing = its_balancers:Missing
broken = its_broken_balancers:Good
leaving = its_leaving_balancers:Good
number = its_balancers:NUMBER
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with balancers of every kind, as pip installs one."""
    (tmp_path / "its_balancers.py").write_text("NUMBER = 1\nclass Good:\n    pass\n")
    (tmp_path / "its_broken_balancers.py").write_text("1 / 0\n")
    (tmp_path / "its_leaving_balancers.py").write_text("import sys\nsys.exit('bye')\n")
    about = tmp_path / "its_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: its-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    installed.cache_clear()
    yield
    installed.cache_clear()
    for name in ("its_balancers", "its_broken_balancers", "its_leaving_balancers"):
        sys.modules.pop(name, None)


def found(name: str) -> object:
    """What is found once it is known."""
    later: queue.Queue[Callable[[], None]] = queue.Queue()
    balancers = InstalledBalancers(later.put)
    told: list[str] = []
    assert balancers.find(name, lambda: told.append("first")) is None
    assert balancers.find(name, lambda: told.append("second")) is None
    later.get(timeout=30)()
    assert told == ["first", "second"]
    assert later.empty()
    return balancers.find(name, lambda: None)


def test_names_are_those_of_entry_points(package: None) -> None:
    assert "good" in InstalledNames()
    assert "other" not in InstalledNames()
    assert InstalledNames() == InstalledNames()


def test_what_is_named_is_imported(package: None) -> None:
    assert getattr(found("good"), "__name__", "") == "Good"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("absent", "no_such_module_at_all:Good cannot be imported: ModuleNotFoundError: "),
        ("missing", "its_balancers:Missing cannot be imported: AttributeError: "),
        ("broken", "its_broken_balancers:Good cannot be imported: ZeroDivisionError: division by zero"),
        ("leaving", "its_leaving_balancers:Good cannot be imported: SystemExit: bye"),
        ("number", "its_balancers:NUMBER cannot be called"),
    ],
)
def test_what_cannot_be_imported_is_a_clause(package: None, name: str, text: str) -> None:
    assert str(found(name)).startswith(text)


def test_a_name_that_no_package_has() -> None:
    balancers = InstalledBalancers(lambda later: None)
    assert balancers.find("nobody-has-this", lambda: None) == "no package that is installed here has it"
