"""The sandbox: who may enter, and that everything in it ends with it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.processes import processes_marked
from tests.lab.proxy import installed_command
from userproxy.demo.play.sandbox import run_in_sandbox
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.usefixtures("root")

WITHOUT_RIGHTS = ["setpriv", "--inh-caps", "-all", "--bounding-set", "-all,+setfcap"]
"""Root in name only: no more than an ordinary user, but able to read the interpreter wherever it is. CAP_SETFCAP
stays, because only with it may user 0 be mapped into a user namespace (user_namespaces(7))."""


def test_the_commands_exit_code_is_the_sandboxs() -> None:
    assert run_in_sandbox(["sh", "-c", "exit 7"]) == 7


def test_inside_all_is_private(tmp_path: Path) -> None:
    report = tmp_path / "report"
    script = f"{{ id -u; ip -oneline link | wc -l; ls -d /proc/[0-9]* | wc -l; }} > {report}"
    assert run_in_sandbox(["sh", "-c", script]) == 0
    user, links, processes = map(int, report.read_text().split())
    assert (user, links) == (0, 1)
    assert processes <= 4


def test_a_user_namespace_does_where_rights_are_missing() -> None:
    script = (
        "from userproxy.demo.play.sandbox import run_in_sandbox; print(run_in_sandbox(['iptables', '-t', 'nat', '-S']))"
    )
    done = _run([*WITHOUT_RIGHTS, sys.executable, "-c", script])
    assert done.stdout.splitlines()[-1] == "0", done
    assert "-P PREROUTING ACCEPT" in done.stdout


def test_refused_namespaces_end_in_one_sentence_that_says_what_is_needed() -> None:
    # The limit is written in a user namespace and holds there alone (user_namespaces(7)).
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    inner = ["sh", "-c", script, "sh", *WITHOUT_RIGHTS, installed_command(), "demo"]
    done = _run(["unshare", "--user", "--map-root-user", *inner])
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: The demo needs private network namespaces, which are refused here (")
    assert "run it as root, or allow unprivileged user namespaces" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_tool_is_named_with_its_package() -> None:
    # /dev/null in its place makes the program one that cannot be executed, in a mount namespace of the test's own.
    script = 'mount --bind /dev/null "$(readlink -f "$(command -v iptables)")" && exec "$@"'
    done = _run(["unshare", "--mount", "sh", "-c", script, "sh", installed_command(), "demo"])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: The demo needs iptables, ")
    assert done.stderr.endswith("not found here (Debian, Ubuntu: apt install iptables).\n")


@pytest.mark.parametrize("rights", [[], WITHOUT_RIGHTS], ids=["root", "user"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_everything(number: signal.Signals, rights: list[str], tmp_path: Path) -> None:
    script = (
        "from userproxy.demo.play.sandbox import run_in_sandbox; import sys;"
        "sys.exit(run_in_sandbox(['sh', '-c', 'sleep 600 & trap \"\" INT TERM HUP; echo up; wait']))"
    )
    with _started([*rights, sys.executable, "-c", script], tmp_path) as process:
        assert len(processes_marked(tmp_path)) >= 3
        process.send_signal(number)
        assert process.wait(5) == (-number if number == signal.SIGKILL else 128 + number)
        eventually(lambda: not processes_marked(tmp_path), 30, "the end of everything in the sandbox")


@contextmanager
def _started(argv: list[str], mark: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed its first line. All its descendants carry `mark` in their environment."""
    environment = {**os.environ, "TMPDIR": str(mark)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
