"""A data process that is to hand over, and cannot; or whose control process dies meanwhile."""

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from msgspec import Raw

from tests.forwarding.conftest import NAME, eventually
from tests.processes.control.test_forwarding import OPTIONS, Client, backend, clients
from tests.processes.control.test_orphans import control, kill
from tests.processes.takeover.planes import (
    CLIENTS,
    NONE_LEFT,
    all_are_served,
    attempt,
    limit_descriptors,
    pids,
    served,
)
from userproxy.forwarding.handover.values import ClientHandedOver
from userproxy.model import Snapshot, Verdict
from userproxy.processes.channel import encode
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.control.spawning import Spawning
from userproxy.processes.data.handover import Handover
from userproxy.processes.messages import Logging, Pulse
from userproxy.processes.takeover.token import Token
from userproxy.processes.transfers import Arrived, GoOn, Take

pytestmark = pytest.mark.slow


async def test_a_data_process_without_descriptors_is_not_handed_over_and_serves_on() -> None:
    async with served(2) as (plane, port, found):
        for pid in pids(plane):
            # None is left for the token; those for clients are taken already.
            limit_descriptors(pid, NONE_LEFT)
        assert await attempt(plane, 0, lambda _, __, packet: packet) is None
        for client in found:
            assert await client.ask() == b"hello\n"
        for pid in pids(plane):
            limit_descriptors(pid, 4096)
        await all_are_served(port, found)


@pytest.mark.parametrize("is_taken", [False, True])
async def test_data_processes_whose_control_process_dies_meanwhile_ask_who_has_read_the_byte(
    is_taken: bool, tmp_path: Path
) -> None:
    def make() -> ProcessForwarder:
        spawning = Spawning("auto", Logging(0, "text"))
        return ProcessForwarder(asyncio.get_running_loop(), OPTIONS, Random(1), 2, spawning, str(tmp_path / "admin"))

    async with backend() as endpoint:
        plane = make()
        plane.outlive(us=True)
        port = plane.open(NAME, verdict=Verdict.SERVE)
        plane.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        async with clients(port, CLIENTS) as found:
            giver, kept = plane.hand_over(), []
            async for package in giver.first():
                kept += [os.dup(each) for each in package.descriptors]
            with closing(Token.make()) as token:
                for _ in giver.rest(token, time.monotonic() + 5):
                    pass
                if is_taken:
                    assert token.take()
                workers = plane._pool.serving
                for worker in workers:
                    worker._child.is_over = True  # it is not ours to kill: we are the one who is dead
                    worker.channel.close()
                if is_taken:
                    await eventually(lambda: not any(map(is_running, [worker.pid for worker in workers])))
                    assert not any(map(is_reset, found)), "their sockets are the successor's"
                else:
                    await all_are_served(port, found)
                    assert not token.take()
            for each in kept:
                os.close(each)
        for worker in workers:
            if is_running(worker.pid):
                os.kill(worker.pid, signal.SIGKILL)
        plane.shut_down()


async def test_one_whose_control_process_dies_in_the_first_part_hands_over_for_the_next_one(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    async with backend() as endpoint, control(path) as first:
        port = first.open(NAME, verdict=Verdict.SERVE)
        first.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        async with AsyncExitStack() as stack:
            found: list[Client] = []
            while not all(worker.pulse.connections for worker in first._pool.serving):  # each has something to tell
                found += await stack.enter_async_context(clients(port, CLIENTS))
                await asyncio.sleep(0.2)
            async for _ in first.hand_over().first():
                pass
            before = pids(first)
            await kill(first, path)
            async with control(path) as second:
                assert pids(second) == before
                second.open(NAME, verdict=Verdict.SERVE)
                second.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
                giver = second.hand_over()
                assert {package.plane async for package in giver.first()} == {0, 1, 2}
                giver.cancel()
                await all_are_served(port, found)


async def test_it_goes_first_from_when_the_rest_may_be_asked_for() -> None:
    async with served(2) as (plane, _, __):
        before = [nice(pid) for pid in pids(plane)]
        giver = plane.hand_over()
        async for _ in giver.first():
            pass
        await eventually(lambda: [nice(pid) for pid in pids(plane)] == [-20, -20] or not may_go_first())
        giver.cancel(lingers=False)
        await eventually(lambda: [nice(pid) for pid in pids(plane)] == before)


def nice(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


def may_go_first() -> bool:
    """Whether this process, and those that it starts, may (CAP_SYS_NICE, the bit 23)."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("CapEff:")]
    return bool(int(line.split()[1], 16) >> 23 & 1)


def is_running(pid: int) -> bool:
    """Whether a process has not ended. Its name, in parentheses, may have spaces (proc(5), stat)."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def is_reset(client: Client) -> bool:
    return bool(client._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


class FaultyTaker:
    """One with a bug."""

    def take(self, *_: object) -> None:
        raise RuntimeError("a bug")

    def complete(self) -> None:
        """Nothing is wrong here."""

    def go_on(self) -> None:
        raise RuntimeError("another bug")

    def arrived(self) -> None:
        pass


def faulty(said: list[object]) -> Handover:
    """That of a data process with a bug, which says what it says to the list."""
    forwarder = SimpleNamespace(take_over=FaultyTaker, number_from=lambda _: None, active=5, flows=2)
    channel = SimpleNamespace(send=said.append)
    handover = Handover(forwarder, lambda: channel, None, lambda: None)  # type: ignore[arg-type, return-value]
    handover.take_over()
    return handover


@pytest.fixture
def collector() -> Iterator[None]:
    """The garbage collector is afterwards as it was."""
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("collector")
async def test_what_was_taken_over_is_not_looked_at_by_the_garbage_collector() -> None:
    gc.unfreeze()
    handover = faulty([])
    handover.complete()
    assert gc.get_freeze_count() > 0


async def test_a_bug_that_a_part_meets_is_told_before_the_predecessor_lets_go() -> None:
    said: list[object] = []
    handover = faulty(said)
    reading, writing = os.pipe()
    try:
        handover.take(Take(Raw(encode([ClientHandedOver(1, None, ("192.0.2.1", 7))])), 0), [reading])
        handover.complete()
        assert said == [Arrived("RuntimeError('a bug')")]
    finally:
        os.close(writing)
        handover._urgency.end()


async def test_how_much_has_arrived_is_told_before_that_it_has() -> None:
    said: list[object] = []
    handover = faulty(said)
    try:
        handover.arrived()
        assert said == [Pulse(5, 2), Arrived("")]
    finally:
        handover._urgency.end()


async def test_a_bug_at_the_beginning_does_not_leave_a_process_without_garbage_collection() -> None:
    handover = faulty([])
    handover.arrived()
    assert not gc.isenabled()
    with pytest.raises(RuntimeError, match="another bug"):
        handover.go_on(GoOn(1))
    await eventually(gc.isenabled)
