"""One reader of what several data processes tell of."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Generic, TypeAlias, TypeVar

from userproxy.model.reports import Batch
from userproxy.processes.channel import Decoder
from userproxy.processes.control.worker import Worker, WorkerGoneError
from userproxy.processes.questions import Question

Item = TypeVar("Item")


class MergedWatch(Generic[Item]):
    """A reader that has room for `room`, of which an event takes what `size` says. See :class:`Watch`."""

    def __init__(self, room: int, size: Callable[[Item], int]) -> None:
        self._room = room
        self._size = size
        self._items: deque[Item] = deque()
        self._used = 0
        self._lost = 0
        self._over = False
        self._wakeup = asyncio.Event()

    async def read(self) -> Batch[Item]:
        """See :class:`~userproxy.model.data_plane.Watch`."""
        await self._wakeup.wait()
        items, lost = tuple(self._items), self._lost
        self._items.clear()
        self._used = 0
        if not lost:
            self._wakeup.clear()
        self._over = bool(lost)
        return Batch(items, lost)

    def add(self, items: Iterable[Item], lost: int = 0, *, beyond_room: bool = False) -> None:
        """A data process has told of something, and has thrown away `lost` events."""
        if self._over:
            return
        self._lost += lost
        for item in items:
            if self._lost or (self._used >= self._room and not beyond_room):
                self._lost += 1
            else:
                self._items.append(item)
                self._used += self._size(item)
        if self._items or self._lost:
            self._wakeup.set()


Reading: TypeAlias = Callable[[Worker, MergedWatch[Item], Callable[[], None]], Coroutine[Any, Any, None]]
"""Adds to a watch what there is to say of a data process, until it is cancelled or the process has ended.

Calls its last argument, once or more often, when the process tells of what happens from then on.
"""

_BEGIN_SECONDS: Final = 1.0
"""For how long a data process that hangs keeps a watch from beginning."""


class Watches:
    """All that is watched now: data processes that begin later are asked, too."""

    def __init__(self, serving: Callable[[], list[Worker]]) -> None:
        self._serving = serving
        self._follow: set[Callable[[Worker], None]] = set()

    def begins(self, worker: Worker) -> None:
        """Another data process serves from now on."""
        for follow in tuple(self._follow):
            follow(worker)

    @asynccontextmanager
    async def watch(
        self, read: Reading[Item], room: int, size: Callable[[Item], int] = lambda _: 1
    ) -> AsyncIterator[MergedWatch[Item]]:
        """A reader of what `read` adds for each data process, from now on or from when it begins.

        Nothing that happens within the context is missed: it is entered once all data processes watch.
        """
        watch = MergedWatch[Item](room, size)
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            tasks: dict[asyncio.Task[None], asyncio.Event] = {}

            def follow(worker: Worker) -> None:
                begun = asyncio.Event()
                task = group.create_task(read(worker, watch, begun.set), name=f"watch {worker.pid}")
                task.add_done_callback(lambda _: begun.set())
                tasks[task] = begun

            for worker in self._serving():
                follow(worker)
            self._follow.add(follow)
            try:
                await _all_of(tuple(tasks.values()))
                yield watch
            except Exception as error:  # noqa: BLE001 -- a group would wrap it
                failure = error
            finally:
                self._follow.discard(follow)
                for task in tasks:
                    task.cancel()
        if failure is not None:
            raise failure


async def _all_of(begun: Iterable[asyncio.Event]) -> None:
    """Wait until all have begun that do so in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_BEGIN_SECONDS):
            for each in begun:
                await each.wait()


def answers(question: Callable[[int], Question], decoder: Decoder[Item]) -> Reading[Item]:
    """Reads what a data process answers to a question that has no end."""

    async def read(worker: Worker, watch: MergedWatch[Item], begun: Callable[[], None]) -> None:
        with suppress(WorkerGoneError):
            async with worker.ask(question, decoder) as parts:
                async for part in parts:
                    begun()
                    watch.add(part.items, part.lost)

    return read
