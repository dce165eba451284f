"""Data processes whose control process has gone: adopted by the next one, or left to their clients, or ended."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from msgspec import structs

from tests.forwarding.conftest import NAME, eventually
from tests.processes.control.test_forwarding import (
    OPTIONS,
    all_ready,
    asked,
    backend,
    clients,
    is_alive,
    pids,
)
from userproxy.forwarding.handover.values import Last, ListenerHandedOver
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.forwarding.observation.counters import NOTHING_COUNTED
from userproxy.model import IPFamily, Limits, Snapshot, Verdict
from userproxy.processes.channel import Decoder, packet
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.control.orphans import end_all
from userproxy.processes.control.spawning import Spawning
from userproxy.processes.door import doors
from userproxy.processes.messages import PROTOCOL, Claim, FromData, Logging, Refused
from userproxy.routing.balancers.state import BalancerState


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "admin.sock")


@asynccontextmanager
async def control(path: str, processes: int = 2) -> AsyncIterator[ProcessForwarder]:
    """A control process at `path`, which ends its data processes at its end unless it was killed."""
    loop = asyncio.get_running_loop()
    forwarder = ProcessForwarder(loop, OPTIONS, Random(1), processes, Spawning("asyncio", Logging(0, "text")), path)
    forwarder.outlive(us=True)
    try:
        yield forwarder
    finally:
        forwarder.shut_down()


async def kill(forwarder: ProcessForwarder, path: str) -> None:
    """Do what a kill -9 does: close all sockets and channels without a word. Data processes are then to be found."""
    await all_ready(forwarder)
    pool = forwarder._pool
    pool._closed = True
    pool._heartbeats.stop()
    serving = pool.serving
    for place in pool.places:
        place.cancel()
        place.worker = None
    for held in forwarder._listeners.values():
        held.close()
    forwarder._listeners.clear()
    for worker in (*serving, *([pool._spare] if pool._spare is not None else [])):
        worker.leave_alone()
    pool._spare = None
    await eventually(lambda: len(found_at(path)) == len(serving))


def found_at(path: str) -> list[Path]:
    return list(Path(path).parent.glob("admin.sock.data-*"))


async def test_the_next_control_process_gives_no_listener_the_number_of_one_that_another_userproxy_has_closed(
    path: str,
) -> None:
    numbers = {"accepted": 1}
    counters = structs.replace(NOTHING_COUNTED, numbers=numbers)
    closed = ListenerHandedOver(77, NAME, is_open=False, balancer=BalancerState(), counters=counters)
    async with control(path) as first:
        await all_ready(first)
        taker = first.take_over()
        taker.take(closed, [], 1)
        taker.take(Last(0), [])
        taker.complete()
        first.went_on()
        taker.go_on()
        await kill(first, path)
        async with control(path) as second:
            second.open(NAME)
            assert second._listeners[NAME].number > 77


async def test_the_next_control_process_adopts_them_with_their_sockets_and_connections(path: str) -> None:
    async with backend() as endpoint, control(path) as first:
        port = first.open(NAME, verdict=Verdict.SERVE)
        first.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        async with clients(port, 6) as connected:
            before = pids(first)
            await kill(first, path)
            assert await asked(port) == b"hello\n", "nobody is there but data processes"
            async with control(path) as second:
                assert pids(second) == before
                assert second.open(NAME, verdict=Verdict.SERVE) == port
                second.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
                second.close_unasked(IPFamily.IPV4)
                assert [await is_alive(each) for each in connected] == [True] * 6
                (figures,) = await second.data_plane.listeners()
                assert (figures.total, figures.active) == (7, 6), "what was counted before counts on"
                await eventually(lambda: not found_at(path))


async def test_one_that_speaks_another_protocol_says_so_and_waits_for_the_next(path: str) -> None:
    async with control(path, 1) as first:
        before = pids(first)
        await kill(first, path)
        ((pid, connection),) = doors(path)
        assert [pid] == before
        with connection:
            connection.setblocking(True)
            connection.settimeout(10)
            connection.send(packet(Claim(PROTOCOL + 1)))
            decoder: Decoder[FromData] = Decoder(FromData)
            answer = decoder.decode((await asyncio.to_thread(connection.recv, 65536))[1:])
            assert answer == Refused(f"it speaks protocol {PROTOCOL}, not {PROTOCOL + 1}")
        async with control(path, 1) as second:
            assert pids(second) == before


async def test_those_that_were_started_otherwise_serve_their_clients_to_the_end_and_no_new_ones(path: str) -> None:
    async with backend() as endpoint, control(path) as first:
        port = first.open(NAME, verdict=Verdict.SERVE)
        first.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        async with clients(port, 4) as connected:
            before = set(pids(first))
            await kill(first, path)
            async with control(path, 3) as second:
                assert before.isdisjoint(pids(second))
                assert [await is_alive(each) for each in connected] == [True] * 4
                await eventually(lambda: is_closed(port))
                again = second.open(NAME, verdict=Verdict.SERVE)
                second.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
                assert await asked(again) == b"hello\n"
        await eventually(lambda: not any(map(runs, before)))


async def test_what_one_counted_that_has_died_meanwhile_counts_no_longer(path: str) -> None:
    """Clients whom it had would else fill a limit that other Services' clients are counted by, too."""
    async with backend() as endpoint, control(path) as first:
        port = first.open(NAME, verdict=Verdict.SERVE)
        first.update(Snapshot(NAME, Verdict.SERVE, (endpoint,), limits=Limits(connections=100)))
        async with clients(port, 8):
            await eventually(lambda: sum(counted(first)) == 8)
            place = counted(first).index(max(counted(first)))
            dying = pids(first)[place]
            tally = os.dup(first._pool._tally)
            await kill(first, path)
            os.kill(dying, signal.SIGKILL)
            await eventually(lambda: has_died(dying))
            async with control(path) as second:
                assert os.path.sameopenfile(tally, second._pool._tally)
                assert counted(second)[place] == 0
            os.close(tally)


def counted(forwarder: ProcessForwarder) -> list[int]:
    """How many clients each of two data processes has of the first service port that has a limit."""
    views = (LimitCounts(forwarder._pool._tally, 2, other) for other in (1, 0))
    return [view.column(0).others(is_first=False) for view in views]


def has_died(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_a_cleanup_ends_them(path: str) -> None:
    async with backend() as endpoint, control(path) as first:
        port = first.open(NAME, verdict=Verdict.SERVE)
        first.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        assert await asyncio.to_thread(end_all, path) == [], "one that has a control process is not found"
        before = pids(first)
        await kill(first, path)
        assert sorted(await asyncio.to_thread(end_all, path)) == sorted(before)
        assert is_closed(port)
        assert found_at(path) == []
        await eventually(lambda: not any(map(runs, before)))


def is_closed(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
