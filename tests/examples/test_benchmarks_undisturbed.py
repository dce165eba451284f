"""What a client notices of a re-list and of a start: the parts of that benchmark."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from examples.benchmarks.pauses import Client, Waits
from examples.benchmarks.pulse import Pulse, percentile
from examples.benchmarks.undisturbed import RELIST, SPIN, Round, ready_socket, to_text, until_ready


@pytest.mark.parametrize(
    ("waits", "percent", "found"),
    [
        ([], 99, 0),
        ([7], 99, 7),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 1001)), 99, 990),
        (list(range(1000, 0, -1)), 50, 500),
        ([1] * 99 + [50], 99, 1),
        ([1] * 98 + [50, 60], 99, 50),
    ],
)
def test_a_percentile_is_what_so_many_per_cent_do_not_exceed(waits: list[int], percent: int, found: int) -> None:
    assert percentile(waits, percent) == found


def test_a_client_tells_each_wait_once() -> None:
    ours, theirs = socket.socketpair()

    def echo() -> None:
        for _ in range(20):
            theirs.sendall(theirs.recv(100, socket.MSG_WAITALL))
        theirs.close()

    thread = threading.Thread(target=echo)
    thread.start()
    pulse = Pulse(ours)
    pulse.run()
    thread.join()
    waits = pulse.waits()
    assert len(waits) == 20
    assert max(waits) == pulse.longest()
    assert pulse.waits() == []
    ours.close()


def test_a_client_answers_with_three_figures() -> None:
    program = "print('ready', flush=True); input(); print('12.500 0.250 1999', flush=True)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert Client(process).waits() == Waits(12.5, 0.25, 1999)


def test_who_serves_says_so(tmp_path: Path) -> None:
    with ready_socket(tmp_path / "ready") as (told, environment):
        (name, path) = environment[0].split("=")
        assert name == "NOTIFY_SOCKET"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"STATUS=begins", path)
            sock.sendto(f"MAINPID={os.getpid()}\nREADY=1".encode(), path)
        until_ready(told)
        told.settimeout(0)
        with pytest.raises(BlockingIOError):
            until_ready(told)


def test_the_report_has_medians_by_data_processes_and_kind() -> None:
    quiet, direct = Waits(1.0, 0.5, 2000), Waits(3.0, 0.125, 950)
    found = ((4, 0.6), (9, 0.5), (5, 1.0))
    rounds = [Round(2, RELIST, 1.0, quiet, Waits(longest, p99, 900), direct) for longest, p99 in found]
    lines = to_text([Round(0, SPIN, 1.0, quiet, Waits(2.0, 0.5, 1000), quiet), *rounds]).splitlines()
    spin = ["0", "another", "process", "1.00", "0.500", "0.500", "1.00", "(1.00..1.00)", "2.0", "0.500"]
    assert lines[1].split() == spin
    assert lines[2].split() == ["2", "re-list", "1.00", "0.500", "0.600", "1.20", "(1.00..2.00)", "5.0", "0.125"]
    assert lines[-1] == "The aim is a ratio of at most 1.5."
