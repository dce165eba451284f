"""CPU accounting against real processes, statistics against tables and properties."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.benchmarks.measure import (
    MeasureError,
    ProcessStat,
    Sample,
    Spread,
    cpu_seconds,
    parse_stat,
    ratios,
    settled_cpu_seconds,
    spread,
    spreads,
    tree,
)

BURN = """
import os, sys, time
if sys.argv[1] == "child":
    child = os.fork()
    if child:
        if sys.argv[2] == "reaped":
            os.waitpid(child, 0)
        sys.stdin.read()
        os._exit(0)
while time.process_time() < 0.3:
    pass
print(flush=True)
if sys.argv[2] != "reaped":
    sys.stdin.read()
"""


@contextmanager
def burner(*how: str) -> Iterator[int]:
    """A process that has just burnt 0.3 s of CPU, itself or in a child that lives on or has ended."""
    command = [sys.executable, "-c", BURN, *how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid


@pytest.mark.parametrize("how", [("itself", "alive"), ("child", "alive"), ("child", "reaped")])
def test_cpu_of_the_whole_tree_is_counted(how: tuple[str, str]) -> None:
    with burner(*how) as pid:
        # The interpreter's start takes some, too; and the kernel's two clocks of CPU time differ by less than a tick.
        assert 0.29 <= settled_cpu_seconds(pid) < 0.6


def test_cpu_of_an_ended_process_is_an_error() -> None:
    with burner("itself", "alive") as pid:
        pass
    with pytest.raises(MeasureError, match=f"process {pid} has ended"):
        cpu_seconds(pid)


@pytest.mark.parametrize("command", ["nginx", "a b", "a) S 7 (b", "()", ")"])
def test_stat_with_any_command_name(command: str) -> None:
    tail = "S 7 42 42 0 -1 4194304 100 200 0 0 31 17 5 6 20 0 3 0 1000 0 0"
    assert parse_stat(f"42 ({command}) {tail}\n") == ProcessStat(pid=42, parent=7, reaped_ticks=11)


def test_own_stat_is_read() -> None:
    with open("/proc/self/stat") as file:
        stat = parse_stat(file.read())
    assert (stat.pid, stat.parent) == (os.getpid(), os.getppid())


def test_tree_is_the_root_and_its_descendants_only() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20}
    stats = [ProcessStat(pid, parent, 0) for pid, parent in parents.items()]
    assert {stat.pid for stat in tree(10, stats)} == {10, 11, 12}
    assert tree(99, stats) == []


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_spread_holds_median_and_ends(values: list[float]) -> None:
    found = spread(values)
    assert (found.least, found.greatest) == (min(values), max(values))
    assert sum(value <= found.median for value in values) * 2 >= len(values)
    assert sum(value >= found.median for value in values) * 2 >= len(values)


SAMPLES = (
    Sample(1, "ours", {"cpu": 10.0, "p99": 5.0}),
    Sample(1, "peer", {"cpu": 20.0}),
    Sample(2, "ours", {"cpu": 40.0}),
    Sample(2, "peer", {"cpu": 40.0}),
    Sample(3, "ours", {"cpu": 30.0}),
    Sample(3, "peer", {"cpu": 10.0}),
    Sample(4, "peer", {"cpu": 1.0}),
    Sample(5, "ours", {"cpu": 1.0}),
    Sample(5, "peer", {}),
)


def test_spreads_leave_out_what_was_never_taken() -> None:
    found = spreads(SAMPLES, ["cpu", "p99"])
    assert found["ours"] == {"cpu": Spread(20.0, 1.0, 40.0), "p99": Spread(5.0, 5.0, 5.0)}
    assert found["peer"] == {"cpu": Spread(15.0, 1.0, 40.0)}


def test_ratio_is_taken_within_a_round_and_then_the_median() -> None:
    assert ratios(SAMPLES, "ours", ["cpu", "p99"]) == {"peer": {"cpu": Spread(1.0, 0.5, 3.0)}}


def test_no_ratio_without_a_peer() -> None:
    assert ratios(SAMPLES[:1], "ours", ["cpu"]) == {}
