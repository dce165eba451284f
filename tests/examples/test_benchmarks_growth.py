"""How cost grows: the table, and short runs with few connections and few Services."""

import os
import socket

import pytest

from examples.benchmarks.growth import OF_CONNECTIONS, OF_SERVICES, to_text, with_connections, with_services
from examples.benchmarks.measure import Sample, descriptors, resident_bytes
from examples.benchmarks.peers import peers
from examples.benchmarks.toolchain import find_go

TABLE = """\
Services  CPU/request, us   CPU/connection, us     resident MB
1         11.0 (10.0..12.0) 110.0 (100.0..120.0)   60.0 (60.0..60.0)
1000      13.0 (13.0..13.0) 120.0 (120.0..120.0)   70.0 (70.0..70.0)
"""
needs_go = pytest.mark.skipif(find_go() is None, reason="needs the Go compiler: pip install '.[bench]'")


def test_a_line_has_medians_over_the_rounds() -> None:
    samples = [
        Sample(1, "1", {"request_cpu_us": 10.0, "connection_cpu_us": 100.0, "resident_mb": 60.0}),
        Sample(2, "1", {"request_cpu_us": 12.0, "connection_cpu_us": 120.0, "resident_mb": 60.0}),
        Sample(1, "1000", {"request_cpu_us": 13.0, "connection_cpu_us": 120.0, "resident_mb": 70.0}),
    ]
    found = to_text("Services", samples, OF_SERVICES)
    assert [line.split() for line in found.splitlines()] == [line.split() for line in TABLE.splitlines()]


def test_memory_and_descriptors_of_a_process_are_seen() -> None:
    memory, open_before = resident_bytes(os.getpid()), descriptors(os.getpid())
    with socket.socket(), socket.socket():
        assert descriptors(os.getpid()) == open_before + 2
    kept = bytearray(os.urandom(1)) * (64 << 20)
    assert resident_bytes(os.getpid()) > memory + (32 << 20)
    del kept


@needs_go
def test_a_connection_takes_two_descriptors() -> None:
    program = peers()["userproxy"].program()
    assert program is not None
    samples = with_connections(peers()["userproxy"], program, (1, 200), 1, requests=1_000)
    assert [sample.proxy for sample in samples] == ["userproxy, 1", "userproxy, 200"]
    assert all(sample.values.keys() == OF_CONNECTIONS.keys() for sample in samples)
    assert samples[1].values["descriptors"] == pytest.approx(2, abs=0.02), "of 200, and perhaps one of something else"


@needs_go
def test_one_of_many_services_is_asked() -> None:
    sample = with_services(20, 1, requests=1_000)
    assert sample.values.keys() == OF_SERVICES.keys()
    assert all(value > 0 for value in sample.values.values())
