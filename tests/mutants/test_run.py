"""Which modules a target names, and which tests a module is tried with."""

from pathlib import Path

import pytest

from tests.mutants.run import files_for, modules_of

POLLER = Path("userproxy/forwarding/poller.py")
DIALER = Path("userproxy/forwarding/tcp/dialer.py")


def test_an_area_has_the_modules_of_its_folders() -> None:
    modules = modules_of(["forwarding"])
    assert {POLLER, DIALER} <= set(modules)
    assert not [module for module in modules if module.name == "__init__.py"]


def test_a_folder_and_a_module_are_named_by_their_paths() -> None:
    assert DIALER in modules_of(["forwarding/tcp"])
    assert POLLER not in modules_of(["forwarding/tcp"])
    assert modules_of(["forwarding/tcp/dialer", "forwarding/poller"]) == [DIALER, POLLER]


@pytest.mark.parametrize("target", ["forwarding/nothing", "telemetry", "nowhere", "nowhere/else"])
def test_what_is_not_there_is_named(target: str) -> None:
    with pytest.raises(SystemExit, match=f"^{target}: there is no such area or module"):
        modules_of([target])


def test_a_module_is_tried_with_its_own_tests_or_with_all_of_its_area() -> None:
    assert files_for(DIALER) == ["tests/forwarding/tcp/test_dialer.py"]
    assert files_for(POLLER) == ["tests/forwarding/test_poller.py"]
    assert files_for(DIALER, wide=True) == ["tests/forwarding"]
    untested = Path("userproxy/forwarding/tcp/no_tests.py")
    assert files_for(untested) == files_for(untested, wide=True) == ["tests/forwarding"]
