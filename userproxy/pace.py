"""Work that grows with the cluster, in slices between which the loop serves traffic.

Here because the source, the proxier and the portal drivers all work so, and do not know each other.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any, Final, Protocol, TypeVar


class Ordered(Protocol):
    """What can be sorted."""

    def __lt__(self, other: Any, /) -> bool:
        """Whether it comes before another one."""


T = TypeVar("T", bound=Ordered)

SLICE_SECONDS: Final = 0.0005
"""How long traffic waits for a slice. A client's round trip meets two, one on its way there and one back, of each piece
of work that is under way: a re-list is two of these. A turn of the loop costs a microsecond, so slices may be short."""

_RUN: Final = 512
"""Sorting so many takes half a millisecond."""


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


async def merged(items: Iterable[T]) -> Iterator[T]:
    """`items` in their order, which is found in slices; each then takes a few comparisons."""
    pace, runs = Pace(), []
    left = iter(items)
    while run := sorted(islice(left, _RUN)):
        runs.append(run)
        await pace.keep()
    return merge(*runs)
