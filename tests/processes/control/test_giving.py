"""Take-overs from and to data processes that fail: at each message, and by each process. The predecessor serves on."""

import asyncio
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from random import Random

import pytest

from tests.forwarding.conftest import NAME, eventually
from tests.processes.control.test_forwarding import OPTIONS, Client, asked, backend, clients
from tests.processes.control.test_taking import making, predecessor
from tests.processes.takeover.conftest import Beside, Meddle, Middle, Packet, Plane, hand_over
from userproxy.model import Snapshot, Verdict
from userproxy.processes.channel import encode, socket_pair
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.control.spawning import Spawning
from userproxy.processes.messages import Logging
from userproxy.processes.takeover import predecessor as of_predecessor
from userproxy.processes.takeover import successor as of_successor
from userproxy.processes.takeover.messages import Ask, Serving
from userproxy.processes.takeover.token import Token

CLIENTS = 4

NONE_LEFT = 3
"""As a limit of open files: descriptors below are those of standard input, output and errors."""


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_predecessor, "ANSWER_SECONDS", 5.0)
    monkeypatch.setattr(of_successor, "_SILENCE_SECONDS", 5.0)


@asynccontextmanager
async def served(processes: int) -> AsyncIterator[tuple[Plane, int, list[Client]]]:
    """A predecessor with its port and some clients."""
    async with backend() as endpoint, predecessor(processes) as plane:
        port = plane.open(NAME, verdict=Verdict.SERVE)
        plane.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        async with clients(port, CLIENTS) as found:
            yield plane, port, found


async def all_are_served(port: int, found: list[Client]) -> None:
    for client in found:
        assert await client.ask() == b"hello\n"
    assert await asked(port) == b"hello\n"


async def attempt(plane: Plane, after: int, meddle: Meddle) -> Beside | None:
    """One take-over; the successor if it serves."""
    middle = Middle(meddle)
    middle.start()
    beside = Beside(middle.for_successor, make=making(after))
    is_given = await hand_over(plane, middle.for_predecessor)
    assert await asyncio.to_thread(beside.done.wait, 15)
    assert is_given is (beside.failure is None)
    if is_given:
        return beside
    await asyncio.to_thread(beside.end)
    await asyncio.to_thread(middle.join, 10)
    return None


def cut(_packet: Packet) -> Packet | None:
    return None


def garbage(packet: Packet) -> Packet | None:
    return b"\0\xc1 this is no message", packet[1]


def without_descriptors(packet: Packet) -> Packet | None:
    return packet[0], []


@pytest.mark.parametrize(
    ("before", "after", "fault"), [(2, 0, cut), (2, 0, garbage), (2, 0, without_descriptors), (0, 2, cut)]
)
async def test_whatever_fails_at_whichever_message_the_predecessor_serves_on(
    before: int, after: int, fault: Callable[[Packet], Packet | None]
) -> None:
    async with served(before) as (plane, port, found):
        for number in range(40):
            was_told = threading.Event()

            def meddle(count: int, to_successor: bool, packet: Packet, at: int = number) -> Packet | None:
                if not to_successor and packet[0][1:] == encode(Serving()):
                    was_told.set()  # noqa: B023 -- it is this attempt's
                    return packet
                return fault(packet) if count == at else packet

            beside = await attempt(plane, after, meddle)
            assert was_told.is_set() is (beside is not None)
            await all_are_served(port, found)
            if beside is not None and number > 8:
                break
            assert beside is None or fault is without_descriptors, "the message went without a fault"
            if beside is not None:
                break
        assert beside is not None, "in the end there are no more messages that could fail"
        await asyncio.to_thread(beside.end)


def pids(plane: Plane) -> list[int]:
    assert isinstance(plane, ProcessForwarder)
    return [worker.pid for worker in plane._pool.serving]


@pytest.mark.parametrize("number", [2, 5, 8])
async def test_a_data_process_of_the_predecessor_that_dies_costs_its_own_clients_alone(number: int) -> None:
    async with served(2) as (plane, port, found):
        victim = pids(plane)[1]

        def meddle(count: int, _to_successor: bool, packet: Packet) -> Packet:
            if count == number:
                os.kill(victim, signal.SIGKILL)
                time.sleep(0.05)  # so that it is dead by the next message
            return packet

        assert await attempt(plane, 0, meddle) is None
        assert await asked(port) == b"hello\n"
        alive = [client for client in found if await is_answered(client)]
        assert 0 < len(alive) < CLIENTS
        await eventually(lambda: len(pids(plane)) == 2)
        beside = await attempt(plane, 1, lambda _, __, packet: packet)
        assert beside is not None
        await all_are_served(port, alive)
        await asyncio.to_thread(beside.end)


async def is_answered(client: Client) -> bool:
    try:
        return await client.ask() == b"hello\n"
    except ConnectionError:
        return False


@pytest.mark.parametrize("to_do", ["kill", "stop", "leave no descriptors"])
@pytest.mark.parametrize("before", [0, 2])
async def test_a_data_process_of_the_successor_that_cannot_go_on_costs_nothing(
    before: int, to_do: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("userproxy.processes.control.taking._ARRIVED_SECONDS", 1.0)
    made: list[Plane] = []

    def make() -> Plane:
        made.append(making(2)())
        return made[0]

    def hinder(count: int, _to_successor: bool, packet: Packet) -> Packet:
        if count == 2:
            for pid in pids(made[0]):
                if to_do == "leave no descriptors":
                    limit_descriptors(pid, NONE_LEFT)
                else:
                    os.kill(pid, signal.SIGKILL if to_do == "kill" else signal.SIGSTOP)
        return packet

    async with served(before) as (plane, port, found):
        middle = Middle(hinder)
        middle.start()
        beside = Beside(middle.for_successor, make=make)
        assert not await hand_over(plane, middle.for_predecessor)
        await all_are_served(port, found)
        assert await asyncio.to_thread(beside.done.wait, 15)
        assert beside.failure is not None
        await asyncio.to_thread(beside.end)
        await all_are_served(port, found)


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


def limit_descriptors(pid: int, limit: int) -> None:
    _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(limit, most), most))


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


def is_running(pid: int) -> bool:
    """Whether a process has not ended. Its name, in parentheses, may have spaces (proc(5), stat)."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def is_reset(client: Client) -> bool:
    return bool(client._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


async def test_another_protocol_of_values_gets_listeners_alone() -> None:
    async with served(2) as (plane, port, found):
        ours, its = socket_pair()
        with closing(its):
            its.send(b"\0" + encode(Ask(1, 1, "0.0", "as in the tests")))
            assert not await hand_over(plane, ours)
        await all_are_served(port, found)
