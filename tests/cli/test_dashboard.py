"""``userproxy dashboard``, as a program."""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from click.testing import CliRunner

from tests.cli.served import running
from userproxy.cli import main

COMMAND = [sys.executable, "-m", "userproxy", "dashboard", "--no-open"]


def test_it_prints_a_link_and_nothing_else_on_standard_output(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        argv = [*COMMAND, "--admin-socket", server.path]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            link = child.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=[-\w]{43}", link)
            with urllib.request.urlopen(link, timeout=20) as answer:
                assert b"<title>userproxy</title>" in answer.read()
            child.send_signal(signal.SIGINT)
            rest, said = child.communicate(timeout=30)
    assert (child.returncode, rest) == (0, "")
    assert "Ctrl-C" in said
    assert link.partition("=")[2] not in said


def test_without_a_proxy_it_ends_with_a_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["dashboard", "--no-open", "--admin-socket", str(tmp_path / "admin.sock")])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert done.output.startswith("Error: there is no socket ")


def test_a_port_that_is_none_is_bad_usage() -> None:
    assert CliRunner().invoke(main, ["dashboard", "--port", "70000"]).exit_code == 2
