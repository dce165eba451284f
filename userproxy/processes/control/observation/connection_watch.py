"""What becomes of the connections of data processes, also of those that end without a word with all of them."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from userproxy.model.reports import ChangeKind, ConnectionChange, ConnectionReport, Query
from userproxy.processes.channel import Decoder
from userproxy.processes.control.observation.merged_watch import MergedWatch, Reading
from userproxy.processes.control.worker import Worker, WorkerGoneError
from userproxy.processes.questions import AskConnections, WatchConnections

_CHANGES: Final[Decoder[ConnectionChange]] = Decoder(ConnectionChange)
_CONNECTIONS: Final[Decoder[ConnectionReport]] = Decoder(ConnectionReport)
_ALL: Final = 1 << 32


class Roll:
    """The connections of one data process, as they were last told of.

    What there was before the first change is listed meanwhile, by :meth:`listed`.
    """

    def __init__(self) -> None:
        self._connections: dict[int, ConnectionReport] = {}
        self._ended: set[int] | None = set()
        """Those that have ended before all were listed; None afterwards."""

    def note(self, changes: Iterable[ConnectionChange]) -> None:
        """Something has become of connections."""
        for change in changes:
            number = change.connection.id
            if change.kind is not ChangeKind.REMOVED:
                self._connections[number] = change.connection
                continue
            self._connections.pop(number, None)
            if self._ended is not None:
                self._ended.add(number)

    def listed(self, connections: Iterable[ConnectionReport]) -> None:
        """There were these, at some moment since the first change."""
        ended, self._ended = self._ended or (), None
        for each in connections:
            if each.id not in ended:
                self._connections.setdefault(each.id, each)

    def end(self) -> Sequence[ConnectionChange]:
        """All of them have ended."""
        connections, self._connections = self._connections, {}
        return [ConnectionChange(ChangeKind.REMOVED, each) for each in connections.values()]


def changes(query: Query, room: int) -> Reading[ConnectionChange]:
    """Reads what becomes of a data process's connections that `query` is about.

    When the process ends they are told of as removed, however many they are.
    """

    async def read(worker: Worker, watch: MergedWatch[ConnectionChange], begun: Callable[[], None]) -> None:
        roll = Roll()
        async with asyncio.TaskGroup() as group:
            with suppress(WorkerGoneError):
                async with worker.ask(lambda number: WatchConnections(number, query, room), _CHANGES) as parts:
                    group.create_task(_list(worker, query, roll, begun), name=f"list {worker.pid}")
                    async for part in parts:
                        roll.note(part.items)
                        watch.add(part.items, part.lost)
        if worker.is_over:
            watch.add(roll.end(), beyond_room=True)

    return read


async def _list(worker: Worker, query: Query, roll: Roll, listed: Callable[[], None]) -> None:
    """Answered after the watch has begun: a data process begins with what it is asked in the order of the questions."""
    with suppress(WorkerGoneError):
        roll.listed(await worker.whole(lambda number: AskConnections(number, query, _ALL, 0), _CONNECTIONS))
        listed()
