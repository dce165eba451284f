"""When to sync: soon after a change, not too often, and periodically in any case."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from userproxy.proxier.repairs import Repairs

_FIRST_RETRY_SECONDS: Final = 0.5


async def _nothing() -> bool:
    return False


class SyncRunner:
    """Calls the sync at the right times, as kube-proxy's bounded-frequency runner does; periods are seconds.

    - Nothing runs before the first request: only then does the source know what is wanted.
    - After each request `follow` does at once, even during a sync, what needs no sync.
    - If that was not all, there is a sync at once, but not before `min_period` after the end of the last one; all
      requests in between share one sync.
    - Every `period` there is a sync in any case, with `verify` True: it repairs what others have broken.
    - After :meth:`verify` there is such a sync, too, however long `min_period` is: at once, but not before
      `repairs.pause` after the end of the last one.
    - A sync that returns False is tried again after half a second, then after twice as long each time, up to `period`
      (kube-proxy waits the whole period each time).
    """

    def __init__(self, min_period: float, period: float, repairs: Repairs | None = None) -> None:
        self._min_period = min_period
        self._period = period
        self._repairs = Repairs(period) if repairs is None else repairs
        self._requested = asyncio.Event()
        self._is_needed = False
        self._is_disturbed = False
        self._wake = asyncio.Event()
        """Set when one of the two has become true."""

    def set_periods(self, min_period: float, period: float) -> None:
        """Use other periods from the next sync on."""
        self._min_period = min_period
        self._period = period
        self._repairs.period = period

    def request(self) -> None:
        """Say that something has changed. Called on the loop's thread."""
        self._requested.set()

    def verify(self) -> None:
        """Say that others may have changed what stands. Called on the loop's thread."""
        self._repairs.disturbed(time.monotonic())
        self._is_disturbed = True
        self._wake.set()

    async def run(
        self, sync: Callable[[bool], Awaitable[bool]], follow: Callable[[], Awaitable[bool]] = _nothing
    ) -> None:
        """Call `follow()` after each request, and `sync(verify)` when it is time, until cancelled.

        `follow` does what needs no sync, and returns whether that was all; it may overlap a sync.
        """
        await self._requested.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(follow), name="follow changes")
            group.create_task(self._sync(sync), name="sync")

    async def _follow(self, follow: Callable[[], Awaitable[bool]]) -> None:
        while True:
            await self._requested.wait()
            self._requested.clear()
            if not await follow():
                self._is_needed = True
                self._wake.set()

    async def _sync(self, sync: Callable[[bool], Awaitable[bool]]) -> None:
        clock = asyncio.get_running_loop().time
        retry = _FIRST_RETRY_SECONDS
        ended = float("-inf")
        due = clock() + self._period  # requests do not put it off
        while True:
            await self._until_time(ended, due)
            is_repair = self._is_disturbed and clock() >= ended + self._repairs.pause
            verify = is_repair or clock() >= due
            self._is_needed = False
            self._is_disturbed &= not verify
            ok = await sync(verify)
            ended = clock()
            if not ok:
                due = ended + min(retry, self._period)
                retry *= 2
            elif verify:
                due = ended + self._period
                retry = _FIRST_RETRY_SECONDS

    async def _until_time(self, ended: float, due: float) -> None:
        """Return when the next sync may begin, after one that has `ended`."""
        clock = asyncio.get_running_loop().time
        while clock() < (begin := self._next(ended, due)):
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(begin):
                    await self._wake.wait()

    def _next(self, ended: float, due: float) -> float:
        begins = [max(due, ended + self._min_period)]
        if self._is_needed:
            begins.append(ended + self._min_period)
        if self._is_disturbed:
            begins.append(ended + self._repairs.pause)
        return min(begins)
