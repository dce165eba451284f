"""What Python compiles stays for programs that are started again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from userproxy.demo.bytecode import kept_bytecode

WHERE = "import noted; print(noted.__cached__)"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that programs can import, in an environment that keeps nothing."""
    (tmp_path / "noted.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)


def cached() -> Path:
    done = subprocess.run([sys.executable, "-c", WHERE], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.mark.usefixtures("module")
def test_what_a_program_compiles_is_there_for_the_next_one_and_goes_in_the_end() -> None:
    with kept_bytecode():
        first = cached()
        assert first.exists()
        assert cached() == first
    assert not first.exists()
    assert not cached().exists()
    assert os.environ["PYTHONDONTWRITEBYTECODE"] == "1"


@pytest.mark.usefixtures("module")
def test_a_folder_that_is_named_already_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "kept"))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE")
    with kept_bytecode():
        compiled = cached()
    assert compiled.is_relative_to(tmp_path / "kept")
    assert compiled.exists()


def test_tests_start_programs_that_keep_what_they_compile() -> None:
    assert "PYTHONDONTWRITEBYTECODE" not in os.environ
    assert Path(os.environ["PYTHONPYCACHEPREFIX"]).is_dir()
