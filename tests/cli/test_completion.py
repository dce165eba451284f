"""Completion: the scripts work in the shells that are here, and what they ask is answered."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from userproxy.cli import main

SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_there_is_a_script_for_each_shell_whether_it_is_here_or_not(
    shell: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(main, ["completion", shell])
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"_USERPROXY_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_has_no_mistake_that_the_shell_sees(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    file = tmp_path / "script"
    file.write_text(CliRunner().invoke(main, ["completion", shell]).stdout)
    done = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_bad_usage() -> None:
    result = CliRunner().invoke(main, ["completion", "tcsh"])
    assert (result.exit_code, "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ("userproxy ge", ["get"]),
        ("userproxy get conn", ["connections", "connection", "conn"]),
        ("userproxy get connections -o j", ["json"]),
        ("userproxy get --sort", ["--sort-by"]),
        ("userproxy observe --verdict re", ["retried", "refused", "reset"]),
        ("userproxy run --portal", ["--portals"]),
        ("userproxy completion f", ["fish"]),
    ],
)
def test_commands_options_and_values_are_completed(words: str, answers: list[str]) -> None:
    parts = words.split()
    asked = {"_USERPROXY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(parts) - 1)}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("userproxy"))],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == answers
    assert done.stderr == ""
