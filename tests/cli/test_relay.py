"""``userproxy relay``."""

import subprocess
import sys
from pathlib import Path

from tests.cli.served import running

COMMAND = [sys.executable, "-m", "userproxy", "relay", "--admin-socket"]


def test_what_is_asked_is_answered(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        asked = b"GET /v1/version HTTP/1.0\r\nHost: localhost\r\n\r\n"
        done = subprocess.run([*COMMAND, server.path], input=asked, capture_output=True, timeout=60, check=True)
    assert done.stderr == b""
    assert done.stdout.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b'"node":"node-1"' in done.stdout


def test_without_a_proxy_it_ends_with_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: there is no socket ")
