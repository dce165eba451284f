"""Instructions: what callgrind writes is read, and a process is counted from one moment to another."""

import subprocess
import sys
from pathlib import Path

import pytest

from examples.benchmarks import callgrind
from examples.benchmarks.callgrind import MISSING, CallgrindError, Counter, parse, under_callgrind
from examples.benchmarks.toolchain import find_program

PROFILE = """\
# callgrind format
version: 1
creator: callgrind-3.19.0
pid: 4711
cmd:  /usr/bin/python3 -m userproxy run
part: 2


desc: Timerange: Basic block 1025094199 - 1026165944
desc: Trigger: dump

positions: line
events: Ir
summary: 5762353


ob=(3) /usr/lib/x86_64-linux-gnu/libc.so.6
fl=(258) ./nptl/./nptl/pthread_mutex_unlock.c
fn=(2230) pthread_mutex_unlock@@GLIBC_2.2.5
368 12132

totals: 5762352
"""

SPINNER = "for n in iter(input, ''): print(sum(range(int(n))), flush=True)"


def test_the_sum_is_read() -> None:
    assert parse(PROFILE) == 5_762_352


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        ("", "tells of no instructions: it has no line 'events: Ir'"),
        (PROFILE.replace("events: Ir", "events: Dr"), "tells of no instructions"),
        (PROFILE.replace("totals: 5762352", ""), "has 0 lines 'totals: NUMBER'"),
        (PROFILE + "totals: 1\n", "has 2 lines 'totals: NUMBER'"),
        (PROFILE.replace("totals: 5762352", "totals: many"), "has 0 lines"),
    ],
)
def test_what_tells_of_nothing_is_said_to(profile: str, sentence: str) -> None:
    with pytest.raises(CallgrindError, match=sentence):
        parse(profile)


def test_one_sentence_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(callgrind, "find_program", lambda _name: None)
    with pytest.raises(CallgrindError, match=r"^valgrind is not installed \(Debian package valgrind\)$"):
        under_callgrind(["true"], tmp_path)
    assert "valgrind" in MISSING


@pytest.mark.skipif(find_program("valgrind") is None, reason="needs valgrind")
def test_a_process_is_counted_from_one_look_to_the_next(tmp_path: Path) -> None:
    command = under_callgrind((sys.executable, "-S", "-c", SPINNER), tmp_path)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
    ) as process:
        counter = Counter(process.pid, tmp_path)

        def spin(number: int) -> int:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{number}\n")
            process.stdout.readline()
            return counter.since()

        spin(1_000)
        few, many = spin(1_000), spin(100_000)
        process.kill()
    assert many - few > 10 * 99_000


@pytest.mark.skipif(find_program("valgrind") is None, reason="needs valgrind")
def test_a_process_that_is_not_counted_is_said_to_be_none(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        with pytest.raises(CallgrindError, match=f"has written nothing of process {process.pid}: "):
            Counter(process.pid, tmp_path).since()
        process.kill()
