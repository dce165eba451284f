"""Work that grows with the cluster, in slices between which the loop serves traffic.

Here because the source, the proxier and the portal drivers all work so, and do not know each other.
"""

import asyncio
import time
from typing import Final

SLICE_SECONDS: Final = 0.002
"""How long traffic waits for a slice. A client's round trip meets two: one on its way there and one back."""


class Pace:
    """Says when it is the turn of others. One for each piece of work, made when that begins."""

    __slots__ = ("_over",)

    def __init__(self) -> None:
        self._over = time.perf_counter() + SLICE_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether this slice is over."""
        return time.perf_counter() >= self._over

    async def keep(self) -> None:
        """Go on at once, or after one turn of the loop where this slice is over."""
        if time.perf_counter() >= self._over:
            await asyncio.sleep(0)
            self._over = time.perf_counter() + SLICE_SECONDS
