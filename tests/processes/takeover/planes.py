"""Predecessors and successors with data processes, or without."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

from tests.forwarding.conftest import NAME
from tests.forwarding.handover.conftest import a_forwarder
from tests.processes.control.test_forwarding import OPTIONS, Client, asked, backend, clients
from tests.processes.takeover.conftest import Beside, Meddle, Middle, Plane, hand_over
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.model import Snapshot, Verdict
from userproxy.processes.channel import socket_pair
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.control.spawning import Spawning
from userproxy.processes.messages import Logging

NUMBERS = [(0, 2), (2, 0), (2, 2), (2, 1), (4, 2)]
"""Of data processes, before and after."""

CLIENTS = 4

NONE_LEFT = 3
"""As a limit of open files: descriptors below are those of standard input, output and errors."""


def making(processes: int, options: ForwardingOptions = OPTIONS) -> Callable[[], Plane]:
    """What makes a data plane of so many processes; of this one alone for 0."""

    def make() -> Plane:
        if not processes:
            return a_forwarder(bind_portals=options.bind_portals)
        spawning = Spawning("auto", Logging(0, "text"))
        return ProcessForwarder(asyncio.get_running_loop(), options, Random(1), processes, spawning)

    return make


@asynccontextmanager
async def predecessor(processes: int, options: ForwardingOptions = OPTIONS) -> AsyncIterator[Plane]:
    plane = making(processes, options)()
    if isinstance(plane, ProcessForwarder):
        await plane.ready()
    try:
        yield plane
    finally:
        plane.shut_down()


@asynccontextmanager
async def successor(
    plane: Plane,
    processes: int,
    options: ForwardingOptions = OPTIONS,
    first: Callable[[], Awaitable[None]] | None = None,
    serves: Callable[[], None] = lambda: None,
) -> AsyncIterator[Beside]:
    """One that has taken over. `first` is done once its processes run, which takes seconds on a busy machine.

    `serves` is called in its thread once all is its own, and before it touches any of it.
    """
    ours, its = socket_pair()
    beside = Beside(its, make=making(processes, options), serves=serves)
    try:
        assert await asyncio.to_thread(beside.ready.wait, 30)
        if first is not None:
            await first()
        assert await hand_over(plane, ours), beside.failure
        await asyncio.to_thread(beside.done.wait, 10)
        assert beside.everything
        yield beside
    finally:
        await asyncio.to_thread(beside.end)


async def figures(plane: Plane) -> tuple[int, int]:
    """Of the listener NAME: clients now, and in all."""
    (found,) = [each for each in await plane.data_plane.listeners() if each.listener == NAME]
    return found.active, found.total


async def eventually_counted(of: "Plane | Beside", wanted: tuple[int, int]) -> None:
    async with asyncio.timeout(20):
        while (await (of.ask(figures) if isinstance(of, Beside) else figures(of))) != wanted:
            await asyncio.sleep(0.02)


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
    assert await asyncio.to_thread(beside.ready.wait, 30)
    is_given = await hand_over(plane, middle.for_predecessor)
    assert await asyncio.to_thread(beside.done.wait, 15)
    assert is_given is (beside.failure is None)
    if is_given:
        return beside
    await asyncio.to_thread(beside.end)
    await asyncio.to_thread(middle.join, 10)
    return None


def pids(plane: Plane) -> list[int]:
    assert isinstance(plane, ProcessForwarder)
    return [worker.pid for worker in plane._pool.serving]


def limit_descriptors(pid: int, limit: int) -> None:
    _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(limit, most), most))
