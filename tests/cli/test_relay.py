"""``userproxy relay``."""

import subprocess
import sys
from pathlib import Path

from tests.cli.served import running

COMMAND = [sys.executable, "-m", "userproxy", "relay", "--admin-socket"]


def test_what_is_asked_is_answered_until_standard_input_ends(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        argv = [*COMMAND, server.path]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(b"GET /v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while b'"node":"node-1"' not in answer:
                piece = child.stdout.read(1000)
                assert piece, answer
                answer += piece
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            child.stdin.close()
            assert child.wait(60) == 0


def test_without_a_proxy_it_ends_with_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: there is no socket ")
