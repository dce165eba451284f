"""When to have the kernel forget where clients were led: soon after rules changed, and not too often."""

import asyncio
from collections.abc import Iterable
from typing import Final

from userproxy.model import PortalBinding
from userproxy.proxier.conntrack_entries import Leads
from userproxy.proxier.interfaces import Conntrack

_PAUSE_SECONDS: Final = 1.0
_REST: Final = 10
"""Times as long as the last search took. It goes through all entries of the kernel, however few the changes were."""


class StaleFlows:
    """Follows the rules of one family, and deletes the conntrack entries that they make stale.

    `pause` is the least number of seconds between two searches: changes in between are looked for together. A client
    whose SYN was lost repeats it after one second, three, seven and so on, and is served then.
    """

    def __init__(self, conntrack: Conntrack, pause: float = _PAUSE_SECONDS) -> None:
        self._conntrack = conntrack
        self._pause = pause
        self._leads = Leads()
        self._wanted = asyncio.Event()

    def changed(self, before: Iterable[PortalBinding], now: Iterable[PortalBinding]) -> None:
        """The rules of `now` stand in place of those of `before`; what is the same may be left out of both."""
        self._leads.change(before, now)
        self._want()

    def repaired(self) -> None:
        """Rules that somebody else had changed are right again."""
        self._leads.repair()
        self._want()

    def _want(self) -> None:
        if self._leads.concerned:
            self._wanted.set()

    async def run(self) -> None:
        """Search whenever there may be stale entries, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            protocols, began = self._leads.concerned, clock()
            await self._conntrack.delete(protocols, self._leads.take().matches)
            await asyncio.sleep(max(self._pause, _REST * (clock() - began)))
