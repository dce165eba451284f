"""What several data processes tell of comes to one reader, who is cut off if it is too slow."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from userproxy.processes.control.observation import merged_watch
from userproxy.processes.control.observation.merged_watch import MergedWatch, Watches


def watch(room: int) -> MergedWatch[str]:
    return MergedWatch(room, len)


async def test_events_of_several_processes_are_read_together() -> None:
    reader = watch(100)
    reader.add(["a"])
    reader.add(["b", "c"])
    batch = await reader.read()
    assert (batch.items, batch.lost) == (("a", "b", "c"), 0)


async def test_beyond_its_room_a_reader_loses_events_and_is_told_how_many() -> None:
    reader = watch(3)
    reader.add(["aa", "bb", "cc", "dd"])
    reader.add(["ee"], lost=7)
    batch = await reader.read()
    assert (batch.items, batch.lost) == (("aa", "bb"), 2 + 7 + 1)


async def test_the_end_of_connections_with_their_process_needs_no_room() -> None:
    reader = watch(1)
    reader.add(["a", "b", "c"], beyond_room=True)
    batch = await reader.read()
    assert (batch.items, batch.lost) == (("a", "b", "c"), 0)


class Processes:
    """Data processes, of which each watches once its `watches` is set, and then tells of one thing."""

    def __init__(self, count: int) -> None:
        self.watches = [asyncio.Event() for _ in range(count)]
        self.watched = Watches(lambda: [SimpleNamespace(pid=number) for number in range(count)])  # type: ignore[misc]

    async def read(self, worker: Any, watch: MergedWatch[str], begun: Callable[[], None]) -> None:
        await self.watches[worker.pid].wait()
        begun()
        watch.add([f"of {worker.pid}"])
        await asyncio.Event().wait()

    @asynccontextmanager
    async def reader(self) -> AsyncIterator["asyncio.Future[MergedWatch[str]]"]:
        """Has a reader as its result once the watch has begun."""
        begun: asyncio.Future[MergedWatch[str]] = asyncio.get_running_loop().create_future()

        async def watch() -> None:
            async with self.watched.watch(self.read, 100) as reader:
                begun.set_result(reader)
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch(), name="watch")
            yield begun
            task.cancel()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_watch_has_begun_once_every_process_watches() -> None:
    processes = Processes(2)
    async with processes.reader() as reader:
        processes.watches[0].set()
        await turns()
        assert not reader.done(), "what happens in the other one would be missed"
        processes.watches[1].set()
        batch = await (await reader).read()
        assert batch.items == ("of 0", "of 1")


async def test_a_process_that_hangs_keeps_no_watch_from_beginning_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged_watch, "_BEGIN_SECONDS", 0.01)
    processes = Processes(2)
    processes.watches[1].set()
    async with processes.reader() as reader:
        batch = await (await reader).read()
        assert batch.items == ("of 1",)


async def test_a_process_that_ends_keeps_none_either() -> None:
    processes = Processes(1)

    async def read(*_: object) -> None:
        pass

    processes.read = read  # type: ignore[assignment, method-assign]
    async with processes.reader() as reader:
        assert await reader
