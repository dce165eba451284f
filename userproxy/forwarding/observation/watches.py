"""Readers of what happens: each has room for a number of events, and is cut off once it is too slow for that."""

import asyncio
from collections import deque
from typing import Final

from userproxy.forwarding.observation.recorder import Entry, Observed
from userproxy.forwarding.observation.reports import (
    Member,
    Reporter,
    asks_for_decision,
    asks_for_member,
    listener_of,
)
from userproxy.model.reports import Batch, ChangeKind, ConnectionChange, ConnectionReport, Decision, Query
from userproxy.pace import Pace

_PAUSE_SECONDS: Final = 0.1
"""Between two batches: what happens thousands of times a second is told of ten times, which costs less."""


class _Wakeup:
    """Lets a reader wait until there is something, and not be called more than ten times a second."""

    __slots__ = ("_loop", "_next", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._next = self._loop.time()

    def wake(self) -> None:
        """There is something."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for :meth:`wake`."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def pause(self) -> None:
        """Wait until a tenth of a second has passed since this ended last."""
        await asyncio.sleep(max(0.0, self._next - self._loop.time()))
        self._next = self._loop.time() + _PAUSE_SECONDS


class DecisionReader:
    """A reader of decisions."""

    def __init__(self, query: Query, room: int, reporter: Reporter) -> None:
        self._query = query
        self._room = room
        self._reporter = reporter
        self._waiting: deque[Entry] = deque()
        self._lost = 0
        self._wakeup = _Wakeup()

    def tell(self, entry: Entry) -> None:
        """A decision was taken."""
        if not asks_for_decision(self._query, entry):
            return
        if self._lost or len(self._waiting) >= self._room:
            self._lost += 1
            return
        self._waiting.append(entry)
        self._wakeup.wake()

    async def read(self) -> Batch[Decision]:
        """See :class:`~userproxy.model.data_plane.Watch`."""
        if not self._waiting:
            await self._wakeup.wait()
        await self._wakeup.pause()
        waiting, self._waiting = self._waiting, deque()
        lost = self._lost
        decisions = []
        pace = Pace()
        for entry in waiting:
            decisions.append(self._reporter.decision(entry))
            await pace.keep()
        return Batch(tuple(decisions), lost)


class ConnectionReader:
    """A reader of what becomes of connections.

    What has become of one that still is, is looked at when it is read. The last report of one that has ended is made at
    once.
    """

    def __init__(self, query: Query, room: int, reporter: Reporter) -> None:
        self._query = query
        self._room = room
        self._reporter = reporter
        self._waiting: dict[int, tuple[ChangeKind, Member | ConnectionReport]] = {}
        self._lost = 0
        self._wakeup = _Wakeup()

    def tell(self, kind: ChangeKind, connection: Observed) -> None:
        """A connection is new, has gone on, or is about to end."""
        if not isinstance(connection, Member) or not self._query.admits_listener(listener_of(connection)):
            return
        if not asks_for_member(self._query, connection):
            return
        before = self._waiting.get(connection.id)
        if before is None and (self._lost or len(self._waiting) >= self._room):
            self._lost += 1
            return
        if kind is ChangeKind.REMOVED:
            self._waiting[connection.id] = kind, self._reporter.connection(connection)
        else:
            self._waiting[connection.id] = (before[0] if before else kind), connection
        self._wakeup.wake()

    async def read(self) -> Batch[ConnectionChange]:
        """See :class:`~userproxy.model.data_plane.Watch`."""
        while True:
            if not self._waiting:
                await self._wakeup.wait()
            await self._wakeup.pause()
            lost = self._lost
            changes = await self._take(len(self._waiting))
            if changes or lost:
                return Batch(tuple(changes), lost)

    async def _take(self, count: int) -> list[ConnectionChange]:
        changes = []
        pace = Pace()
        for _ in range(count):
            number = next(iter(self._waiting))
            kind, what = self._waiting.pop(number)
            report = what if isinstance(what, ConnectionReport) else self._reporter.connection(what)
            if not self._query.states or kind is ChangeKind.REMOVED or report.state in self._query.states:
                changes.append(ConnectionChange(kind, report))
            await pace.keep()
        return changes
