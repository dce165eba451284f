"""A lock that several processes have in common."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from userproxy.forwarding.accept_turns import open_tally
from userproxy.forwarding.limits.lock import ByteLock

OTHER = """
import sys
from userproxy.forwarding.limits.lock import ByteLock
with ByteLock(int(sys.argv[1]), int(sys.argv[2])) as is_ours:
    print(is_ours, flush=True)
    input()
"""


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = open_tally()
    yield descriptor
    os.close(descriptor)


@contextmanager
def another(descriptor: int, at: int) -> Iterator[tuple[subprocess.Popen[str], bool]]:
    """Another process that wants the lock, and whether it has it."""
    command = [sys.executable, "-c", OTHER, str(descriptor), str(at)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[descriptor]
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline() == "True\n"
        process.kill()


def test_one_process_has_it_and_another_byte_s_is_another_lock(memory: int) -> None:
    with ByteLock(memory, 100_000) as is_ours:
        assert is_ours
        with another(memory, 100_000) as (_, is_theirs):
            assert not is_theirs, "it goes on without"
        with another(memory, 100_001) as (_, is_theirs):
            assert is_theirs
    with another(memory, 100_000) as (_, is_theirs):
        assert is_theirs, "we have it no more"


def test_one_that_is_killed_has_it_no_more(memory: int) -> None:
    lock = ByteLock(memory, 0)
    with another(memory, 0) as (process, is_theirs):
        assert is_theirs
        with lock as is_ours:
            assert not is_ours
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock as is_ours:
            assert is_ours


def test_it_is_left_where_something_is_raised(memory: int) -> None:
    with pytest.raises(RuntimeError), ByteLock(memory, 0):
        raise RuntimeError
    with another(memory, 0) as (_, is_theirs):
        assert is_theirs


def test_without_the_file_there_is_none() -> None:
    descriptor = open_tally()
    os.close(descriptor)
    with ByteLock(descriptor, 0) as is_ours:
        assert not is_ours
