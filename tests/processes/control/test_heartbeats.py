"""A data process that hangs is ended after ten seconds, and replaced; one that is only slow is not."""

import asyncio
import os
import signal

from tests.forwarding.conftest import NAME, eventually
from tests.processes.control.test_forwarding import all_ready, asked, backend, forwarding, pids
from userproxy.model import Snapshot, Verdict
from userproxy.processes.control.heartbeats import SILENT_LOOKS, SILENT_LOOKS_AT_START, Heartbeats


class Process:
    """What is asked of a data process."""

    def __init__(self, *, is_ready: bool = True) -> None:
        self.messages = 0
        self.is_ready = is_ready
        self.killed: list[str] = []

    def kill(self, why: str) -> None:
        self.killed.append(why)


class Timers:
    """A loop whose timers are called by hand."""

    def __init__(self) -> None:
        self.due: list[object] = []

    def call_later(self, _seconds: float, callback: object) -> None:
        self.due.append(callback)

    def look(self) -> None:
        callback = self.due.pop()
        assert callable(callback)
        callback()


def looked_at(process: Process) -> Timers:
    timers = Timers()
    Heartbeats(timers, lambda: [process]).start()  # type: ignore[arg-type, list-item]
    timers.look()
    return timers


def test_a_process_that_says_nothing_is_ended_once() -> None:
    process = Process()
    timers = looked_at(process)
    for _ in range(SILENT_LOOKS - 1):
        timers.look()
    assert not process.killed
    for _ in range(3):
        timers.look()
    assert process.killed == ["it had not said anything for 10 s"]


def test_a_word_now_and_then_is_enough() -> None:
    process = Process()
    timers = looked_at(process)
    for look in range(10 * SILENT_LOOKS):
        process.messages += not look % (SILENT_LOOKS - 1)
        timers.look()
    assert not process.killed


def test_one_that_starts_has_more_time() -> None:
    process = Process(is_ready=False)
    timers = looked_at(process)
    for _ in range(SILENT_LOOKS_AT_START - 1):
        timers.look()
    assert not process.killed
    timers.look()
    assert process.killed


async def test_a_stopped_process_is_replaced_and_what_it_had_is_told() -> None:
    async with forwarding() as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        await all_ready(forwarder)
        victim, survivor = pids(forwarder)
        os.kill(victim, signal.SIGSTOP)
        await eventually(lambda: victim not in pids(forwarder) and len(pids(forwarder)) == 2, 40)
        assert survivor in pids(forwarder)
        assert await asyncio.gather(*(asked(port) for _ in range(10))) == [b"hello\n"] * 10
        (problem,) = forwarder.problems
        assert "SIGKILL, because it had not said anything for 10 s" in problem.text
