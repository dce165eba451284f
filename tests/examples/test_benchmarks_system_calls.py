"""System calls a request: what strace prints is read, and a short run of userproxy itself."""

import pytest

from examples.benchmarks.peers import peers
from examples.benchmarks.system_calls import Counts, count_calls, parse, to_text
from examples.benchmarks.toolchain import find_go, find_program

SUMMARY = """\
syscall                calls
---------------- -----------
recvfrom               40012
sendto                 40000
futex                      7
---------------- -----------
total                  80019
"""

TABLE = """\
calls/request  userproxy  haproxy
recvfrom       2.00       2.10
sendto         2.00       1.00
others         0.02       0.01
all            4.02       3.11
"""


def test_a_summary_of_strace_is_read_without_its_total() -> None:
    assert parse(SUMMARY) == {"recvfrom": 40012, "sendto": 40000, "futex": 7}


def test_rare_calls_are_summed() -> None:
    counts = [
        Counts("userproxy", "request", {"recvfrom": 2.0, "sendto": 2.0, "futex": 0.02}),
        Counts("haproxy", "request", {"recvfrom": 2.1, "sendto": 1.0, "brk": 0.01}),
    ]
    assert to_text("request", counts) == TABLE


@pytest.mark.skipif(find_go() is None or find_program("strace") is None, reason="needs Go and strace")
def test_each_byte_passes_by_two_calls() -> None:
    program = peers()["userproxy"].program()
    assert program is not None
    request, connection, round_trip = count_calls(peers()["userproxy"], program, requests=1_000)
    assert 1.0 < sum(round_trip.calls.values()) < 8.0
    assert 1.9 < request.calls["recvfrom"] < 2.5
    assert 0.9 < connection.calls["accept4"] < 2.5
