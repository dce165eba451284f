"""Tells the control process what this data process has counted, so that little is lost if it ends without a word."""

import asyncio
from collections.abc import Callable
from typing import Final

from userproxy.forwarding.handover.noting import CounterChanges
from userproxy.forwarding.observation.counters import ListenerCounters
from userproxy.forwarding.observation.data_plane import LocalDataPlane
from userproxy.model import ListenerName
from userproxy.model.reports import ListenerFigures
from userproxy.processes.channel import Channel
from userproxy.processes.messages import Counted, ToData

COUNT_SECONDS: Final = 2.0
"""What was counted in this time is lost with the process."""

_SHARE: Final = 50
"""It takes at most one part in so many of the loop's time; with very many listeners in use it is done less often."""

_AT_ONCE: Final = 32
"""The figures of so many listeners are one message."""


class Counting:
    """Looks what has changed, and tells it. A process that has had no client tells nothing."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, plane: LocalDataPlane, channel: Callable[[], Channel[ToData]]
    ) -> None:
        self._loop = loop
        self._plane = plane
        self._channel = channel
        self._changes = CounterChanges()
        self._told: dict[int, int] = {}
        """What the figures of each open listener that has counted anything came to when they were told last."""
        self._told_closed: dict[int, int] = {}
        """The same for closed ones."""
        self._sums: tuple[int, ...] = ()

    async def run(self) -> None:
        """Do so until it is cancelled."""
        while True:
            began = self._loop.time()
            await self.look()
            await asyncio.sleep(max(COUNT_SECONDS, _SHARE * (self._loop.time() - began)))

    async def look(self) -> None:
        """Tell what has changed since the last time."""
        await self._tell_process()
        self._changes.take()
        group: list[ListenerFigures] = []
        async for figures in self._plane.figures(self._may_have_changed):
            total = _sum(figures)
            if self._told.get(figures.number, 0) != total:
                self._told[figures.number] = total
                group.append(figures)
            if len(group) >= _AT_ONCE:
                await self._send(Counted(tuple(group)))
                group = []
        if group:
            await self._send(Counted(tuple(group)))
        await self._tell_closed()

    async def _tell_closed(self) -> None:
        sums: dict[int, int] = {}
        group = []
        for figures in await self._plane.closed_listeners():
            total = sums[figures.number] = _sum(figures)
            self._told.pop(figures.number, None)
            if self._told_closed.get(figures.number) != total:
                group.append(figures)
        self._told_closed = sums
        for start in range(0, len(group), _AT_ONCE):
            await self._send(Counted(closed=tuple(group[start : start + _AT_ONCE])))

    async def _tell_process(self) -> None:
        process = self._plane.counts()
        counts = (process.evicted, process.handler_failures, process.source_fallbacks)
        sums = tuple(sum(each.values()) for each in counts)
        if any(sums) and sums != self._sums:
            self._sums = sums
            await self._send(Counted(process=process))

    def _may_have_changed(self, _: ListenerName, counters: ListenerCounters) -> bool:
        """Whether anything was counted since the last time, or may be, as long as there is a client."""
        if counters.active:
            return True
        if self._changes.looks_at(counters):
            return False
        self._changes.look(counters)
        return any(counters.mark)

    async def _send(self, counted: Counted) -> None:
        self._channel().send(counted)
        await self._channel().drained()


def _sum(figures: ListenerFigures) -> int:
    """What grows whenever something was counted."""
    datagrams = figures.datagrams
    own = figures.total + figures.ended + figures.failed + figures.refused + figures.bytes_up + figures.bytes_down
    if datagrams is None:
        return own
    lost = datagrams.dropped + datagrams.unsent + datagrams.unserved + datagrams.evicted + datagrams.moved
    return own + datagrams.datagrams_up + datagrams.datagrams_down + lost
