"""The demo's command, without a demo; tests/e2e/test_demo.py has the whole."""

import sys
from collections.abc import Sequence

import pytest
from click.testing import CliRunner

from userproxy.cli import demo, main
from userproxy.demo.play.sandbox import SandboxError

STOPPED = "Stopped; nothing is left behind.\n"


@pytest.mark.parametrize(("ended", "text"), [(0, ""), (1, ""), (130, STOPPED), (143, STOPPED)])
def test_the_demo_s_exit_code_is_the_command_s(monkeypatch: pytest.MonkeyPatch, ended: int, text: str) -> None:
    started: list[Sequence[str]] = []

    def run(arguments: Sequence[str]) -> int:
        started.append(arguments)
        return ended

    monkeypatch.setattr(demo, "run_in_sandbox", run)
    result = CliRunner().invoke(main, ["demo"])
    assert (result.exit_code, result.stdout, result.stderr) == (ended, "", text)
    assert started == [[sys.executable, "-m", "userproxy.demo"]]


def test_a_machine_that_allows_no_sandbox_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_arguments: Sequence[str]) -> int:
        raise SandboxError("user namespaces are switched off")

    monkeypatch.setattr(demo, "run_in_sandbox", run)
    result = CliRunner().invoke(main, ["demo"])
    assert (result.exit_code, result.stderr) == (1, "Error: user namespaces are switched off\n")
