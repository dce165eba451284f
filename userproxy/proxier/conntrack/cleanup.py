"""When to delete stale conntrack entries: soon after the rules changed, and not too often."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from userproxy.model import PortalBinding
from userproxy.pace import in_slices
from userproxy.proxier.conntrack.entries import PortalTargets
from userproxy.proxier.interfaces import Conntrack

_PAUSE_SECONDS: Final = 1.0
_REST: Final = 10
"""The pause is at least this many times as long as the last search, which reads all entries of the kernel."""


class ConntrackCleanup:
    """Is told of the rules of one family as they change, and deletes the conntrack entries that become stale.

    `pause` is the least time between two searches, in seconds; one search serves all changes of that time. A client
    whose SYN was lost repeats it after one second, three, seven and so on, and is served then.
    """

    def __init__(self, conntrack: Conntrack, pause: float = _PAUSE_SECONDS) -> None:
        self._conntrack = conntrack
        self._pause = pause
        self._targets = PortalTargets()
        self._changes: deque[tuple[Sequence[PortalBinding], Sequence[PortalBinding]]] = deque()
        self._needed = asyncio.Event()
        self._searching = asyncio.Lock()

    def changed(self, before: Sequence[PortalBinding], now: Sequence[PortalBinding]) -> None:
        """The rules of `now` have replaced those of `before`. Bindings that are in both may be left out."""
        if before or now:
            self._changes.append((before, now))
            self._needed.set()

    def repaired(self) -> None:
        """Rules that something else had changed are as they should be again."""
        self._targets.repair()
        self._needed.set()

    async def look_again(self) -> None:
        """Search for entries that contradict any of our rules, now; returns once they are deleted.

        For when rules of somebody else are gone that stood beside ours, and may have been before them: a client that
        went on sending has an entry of theirs again, made since the last search.
        """
        self._targets.repair()
        await self._search()

    async def run(self) -> None:
        """Search whenever there may be stale entries, until cancelled."""
        while True:
            await self._needed.wait()
            took = await self._search()
            if took is not None:
                await asyncio.sleep(max(self._pause, _REST * took))

    async def _search(self) -> float | None:
        """Search if there may be stale entries; returns how many seconds that took."""
        clock = asyncio.get_running_loop().time
        async with self._searching:
            self._needed.clear()
            while self._changes:
                await in_slices(self._targets.changing(*self._changes.popleft()))
            protocols, began = self._targets.concerned, clock()
            if not protocols:
                return None
            stale = await in_slices(self._targets.taking())
            await self._conntrack.delete(protocols, stale.matches)
            return clock() - began
