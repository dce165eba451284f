"""Failures by chance are tried again; others fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ONCE = """
from pathlib import Path

def test_that_passes():
    pass

def test_that_fails_once():
    first = not Path("tried").exists()
    Path("tried").touch()
    assert not first
"""

ALWAYS = "def test_that_fails():\n    assert False\n"

MANY = "import pytest\n\n@pytest.mark.parametrize('n', range(6))\ndef test_many(n):\n    assert False\n"


@pytest.mark.parametrize(
    ("tests", "code", "said"),
    [
        (ONCE, 0, "Passed the second time, to be looked at:\n  test_some.py::test_that_fails_once\n"),
        (ALWAYS, 1, "Tried again, one by one:\n  test_some.py::test_that_fails\n"),
        (MANY, 1, "6 tests failed: too many to try them again\n"),
        ("import nothing_of_this_name\n", 2, "nothing_of_this_name"),
        ("def test_that_passes(): pass\n", 0, "1 passed"),
    ],
)
def test_what_failed_is_tried_once_more(tests: str, code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(tests)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, str(ROOT / "tests" / "rerun.py"), "-p", "xdist", "test_some.py"]
    # Plugins take seconds to import; under tox, pytest keeps its cache elsewhere.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TOX_ENV_DIR": str(tmp_path / "tox")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout
