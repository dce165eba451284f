"""Work that grows with the cluster, in slices between which the loop serves traffic.

Here because the source, the proxier and the portal drivers all work so, and do not know each other.
"""

import asyncio
import gc
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from heapq import merge
from itertools import islice
from typing import Any, Final, Protocol, TypeVar


class Ordered(Protocol):
    """What can be sorted."""

    def __lt__(self, other: Any, /) -> bool:
        """Whether it comes before another one."""


T = TypeVar("T", bound=Ordered)
Result = TypeVar("Result")

SLICE_SECONDS: Final = 0.00005
"""How long traffic waits in a turn of the loop for all pieces of work that are under way, which share this time. A
client's round trip meets two such turns, one on its way there and one back. A turn costs a microsecond or two."""

_OF_A_TURN: Final = 0.1
_LONGEST: Final = 10
"""Where a turn of the loop takes others long, as on a processor that is all busy with traffic, a slice is a tenth of
that, up to so many slices. Work that grows with the cluster gets 1 % of the processor otherwise, and a re-list of
10,000 Services takes minutes."""

_REST_SECONDS: Final = 0.001
"""Timers of event loops have no shorter ones."""

_UNHURRIED_SECONDS: Final = 5.0
"""With 10,000 listeners a hand-over takes two to four, in which no Service comes or goes; with more it should not take
ever longer."""

_PIECE: Final = 64

_RUN: Final = 64
"""Sorting so many takes as long as a slice."""


class _Work:
    """Pieces of work under way: how many await their next slice; during how many nothing is to be collected, and
    whether the collector is off for them."""

    waiting = 0
    count = 0
    has_stopped = False
    serves = False
    """Whether the loop of this process serves traffic."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Within this the garbage collector is off. Several such pieces of work may overlap.

    For one that makes much and keeps next to nothing of it, such as a list that is compared with what there is: the
    collector would walk through what is still there of it, 10,000 objects in two milliseconds, in which nobody is
    served. The work must have an end.
    """
    if not _Work.count:
        _Work.has_stopped = gc.isenabled()
        gc.disable()
    _Work.count += 1
    try:
        yield
    finally:
        _Work.count -= 1
        if not _Work.count and _Work.has_stopped:
            gc.enable()


class Pace:
    """Says when it is the turn of others. One for each piece of work, made when that begins.

    `part` is how much of a slice is for what is done between two looks at the clock; the rest of it is left for what
    comes once that is over, as to send what was made.
    """

    __slots__ = ("_over", "_part")

    def __init__(self, part: float = 1.0) -> None:
        self._part = part
        self._over = time.perf_counter() + part * _share()

    @property
    def is_over(self) -> bool:
        """Whether this slice is over."""
        return time.perf_counter() >= self._over

    async def keep(self) -> None:
        """Go on at once, or after one turn of the loop where this slice is over."""
        left = time.perf_counter()
        if left >= self._over:
            _Work.waiting += 1
            try:
                await asyncio.sleep(0)
            finally:
                _Work.waiting -= 1
            now = time.perf_counter()
            self._over = now + self._part * _share(now - left)


class UnhurriedPace(Pace):
    """As :class:`Pace`, but between two slices it sleeps, for five seconds in all; then it is as that one.

    For work that nobody waits for, in a process that serves: without pauses it takes a CPU, and where others work, too,
    as a successor that takes over, none is left for clients and endpoints. A slice is longer for that: a tenth of what
    comes between.
    """

    __slots__ = ("_hurries_at",)

    def __init__(self, part: float = 1.0) -> None:
        super().__init__(part)
        self._hurries_at = time.perf_counter() + _UNHURRIED_SECONDS

    async def keep(self) -> None:
        """Go on at once, or after a pause where this slice is over."""
        if self.is_over:
            await self.rest()

    async def rest(self) -> None:
        """Go on after a pause; as :meth:`Pace.keep` once it is in a hurry."""
        left = time.perf_counter()
        if left >= self._hurries_at:
            await super().keep()
            return
        await asyncio.sleep(_REST_SECONDS)
        now = time.perf_counter()
        self._over = now + self._part * _share(now - left)


def serving() -> None:
    """The loop of this process serves traffic from now on: threads beside it are to leave it the interpreter."""
    _Work.serves = True


class ThreadPace:
    """As :class:`Pace`, for work of a thread beside the loop.

    At the end of a slice it sleeps for as long, where the loop serves traffic: a thread that merely lets go of the
    interpreter has it back before another one has woken up, and one that does not is asked for it at each system call
    of the loop's, which then waits for :func:`sys.setswitchinterval`.
    """

    __slots__ = ("_over",)

    def __init__(self) -> None:
        self._over = time.perf_counter() + SLICE_SECONDS

    def keep(self) -> None:
        """Go on at once, or after a while where this slice is over."""
        if time.perf_counter() >= self._over:
            if _Work.serves:
                time.sleep(SLICE_SECONDS)
            self._over = time.perf_counter() + SLICE_SECONDS


def _share(turn: float = 0.0) -> float:
    """The slice of one piece of work after others had so many seconds, where some of these wait for their slices, which
    come in the same turn of the loop."""
    return min(max(SLICE_SECONDS, turn * _OF_A_TURN), SLICE_SECONDS * _LONGEST) / (1 + _Work.waiting)


async def in_slices(steps: Generator[None, None, Result]) -> Result:
    """What a generator returns whose steps are done in slices."""
    pace = Pace()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        await pace.keep()


async def emptied(items: dict[Any, Any]) -> None:
    """Take all items out of a dictionary, in slices: to free ten thousand at once, as at the end of a function, takes
    milliseconds."""
    pace = Pace()
    while items:
        for _ in range(min(_PIECE, len(items))):
            items.popitem()
        await pace.keep()


async def merged(items: Iterable[T]) -> Iterator[T]:
    """`items` in their order, which is found in slices; each then takes a few comparisons."""
    pace, runs = Pace(), []
    left = iter(items)
    while run := sorted(islice(left, _RUN)):
        runs.append(run)
        await pace.keep()
    return merge(*runs)
