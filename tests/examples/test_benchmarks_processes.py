"""Child processes end with the benchmark, and those that do not come up say why."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from examples.benchmarks.processes import StartError, echoes_datagrams, free_port, running, wait_until_served

ECHO = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", int(sys.argv[1])))
    while True:
        data, client = sock.recvfrom(100)
        sock.sendto(data[:int(sys.argv[2])], client)
"""

ROOT = Path(__file__).parents[2]

SLEEPS_WITH_CHILD = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_DFL)
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""

OWNER = """
import sys, time
from pathlib import Path
from examples.benchmarks.processes import running
with running([sys.executable, "-c", "import time; time.sleep(60)"], Path(sys.argv[1])) as process:
    print(process.pid, flush=True)
    time.sleep(60)
"""


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def wait_for(condition: Callable[[], bool], limit: float = 10.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_whole_group_ends_after_a_failure(tmp_path: Path) -> None:
    command = (sys.executable, "-c", SLEEPS_WITH_CHILD)
    pids: list[int] = []
    with suppress(ZeroDivisionError), running(command, tmp_path / "log", piped=True) as process:
        assert process.stdout is not None
        pids += (process.pid, int(process.stdout.readline()))
        raise ZeroDivisionError
    assert len(pids) == 2
    for pid in pids:
        wait_for(partial(gone, pid))


def test_children_end_when_the_benchmark_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        assert not gone(child)
        owner.send_signal(signal.SIGKILL)
        wait_for(partial(gone, child))


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(StartError, match=r"/no/such cannot be run: No such file"),
        running(("/no/such",), tmp_path / "log"),
    ):
        pass


def test_a_proxy_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit('port is taken')")
    log = tmp_path / "log"
    with running(command, log) as process, pytest.raises(StartError, match=r"code 1: port is taken"):
        wait_until_served(("127.0.0.1", free_port()), process, log, 10)


def test_a_listener_without_a_backend_is_not_ready(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(60)")
    log = tmp_path / "log"
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        running(command, log) as process,
        pytest.raises(StartError, match=r"no answer on 127\.0\.0\.1:\d+ within 0\.1 s: it wrote nothing"),
    ):
        wait_until_served(silent.getsockname(), process, log, 0.1)


def test_a_free_port_is_free_on_every_address() -> None:
    addresses = ("127.0.0.1", "127.0.0.2")
    port = free_port(addresses)
    for address in addresses:
        with socket.create_server((address, port)), socket.socket(type=socket.SOCK_DGRAM) as datagram:
            datagram.bind((address, port))


def test_a_port_that_udp_holds_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr("examples.benchmarks.processes._PORTS", range(port, port + 1))
        with pytest.raises(StartError, match="no port"):
            free_port()


def test_an_echo_is_waited_for(tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    with running((sys.executable, "-c", ECHO, str(port), "100"), log) as process:
        wait_until_served(("127.0.0.1", port), process, log, 10, echoes_datagrams)


def test_a_cut_echo_is_none(tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    with (
        running((sys.executable, "-c", ECHO, str(port), "3"), log) as process,
        pytest.raises(StartError, match="no answer"),
    ):
        wait_until_served(("127.0.0.1", port), process, log, 0.5, echoes_datagrams)
