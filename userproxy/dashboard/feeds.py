"""Decisions as they fall, for all tabs that ask for the same ones by one watch of the admin API."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from userproxy.admin.client import AdminError, CutOffError
from userproxy.dashboard.figures.rates import Item
from userproxy.dashboard.upstream import Upstream

REMEMBERED: Final = 400
"""Decisions that a page can show; the proxy itself remembers more."""

_AGAIN_SECONDS: Final = 1.0
NOT_SERVED: Final = ("retried", "refused", "dropped", "reset", "timed-out")
"""The verdicts about clients who met something else than a first endpoint that served them."""


class Feed:
    """The decisions that a query of the API selects: the last ones, and `changed` is called with each new one.

    `count` is how many there have been; the newest of them are in `last`.
    """

    def __init__(
        self, upstream: Upstream, query: Mapping[str, str | Sequence[str]], admits: Callable[[Item], bool]
    ) -> None:
        self.last: deque[Item] = deque(maxlen=REMEMBERED)
        self.count = 0
        self.woken: set[asyncio.Event] = set()
        """Events that are set once there is another decision."""
        self.told: set[Callable[[Item], None]] = set()
        """What is called with each decision from now on."""
        self._upstream = upstream
        self._query = {**query, "last": str(REMEMBERED)}
        self._admits = admits
        self._newest = ""

    async def run(self) -> None:
        """Read them until cancelled. Where the proxy has gone, or cut us off, they are asked for again."""
        while True:
            try:
                await self._read()
            except CutOffError as error:
                self.count += error.lost
            except AdminError:  # whoever looks at the figures says why
                pass
            await asyncio.sleep(_AGAIN_SECONDS)

    def since(self, count: int) -> tuple[list[Item], int]:
        """The decisions after the first `count` that are still known, and how many of them are not."""
        new = self.count - count
        known = list(self.last)[-new:] if new > 0 else []
        return known, max(0, new - len(known))

    async def _read(self) -> None:
        past = True
        async for change in self._upstream.lines("decisions", self._query):
            if change["type"] == "SYNCED":
                past = False
            elif self._admits(change["object"]) and not (past and change["object"]["time"] <= self._newest):
                self._add(change["object"])

    def _add(self, decision: Item) -> None:
        self.count += 1
        self._newest = decision["time"]
        self.last.append(decision)
        for told in self.told:
            told(decision)
        for event in self.woken:
            event.set()
