"""When to sync: soon after a change, not too often, and periodically in any case."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

_FIRST_RETRY_SECONDS: Final = 0.5


async def _nothing() -> bool:
    return False


class SyncRunner:
    """Calls the sync at the right times, as kube-proxy's bounded-frequency runner does; periods are seconds.

    - Nothing runs before the first request: only then does the source know what is wanted.
    - What a request asks for and needs no sync is done at once, even during a sync.
    - Otherwise there is a sync at once, but not before `min_period` after the end of the last one; all requests in
      between share one sync.
    - Every `period` there is a sync in any case, with `verify` True: it repairs what others have broken.
      So does the next one after :meth:`verify` was called.
    - A sync that returns False is tried again, first after half a second, then ever more slowly up to
      `period` (kube-proxy waits the whole period each time).
    """

    def __init__(self, min_period: float, period: float) -> None:
        self._min_period = min_period
        self._period = period
        self._requested = asyncio.Event()
        self._needed = asyncio.Event()
        self._disturbed = False

    def set_periods(self, min_period: float, period: float) -> None:
        """Use other periods from the next sync on."""
        self._min_period = min_period
        self._period = period

    def request(self) -> None:
        """Say that something has changed. Called on the loop's thread."""
        self._requested.set()

    def verify(self) -> None:
        """Have a sync with `verify` as soon as there may be one. Called on the loop's thread."""
        self._disturbed = True
        self._needed.set()

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
                self._needed.set()

    async def _sync(self, sync: Callable[[bool], Awaitable[bool]]) -> None:
        clock = asyncio.get_running_loop().time
        retry = _FIRST_RETRY_SECONDS
        due = clock() + self._period  # requests do not put it off
        while True:
            needed = await self._wait_for_need(due)
            self._needed.clear()
            verify, self._disturbed = self._disturbed or not needed or clock() >= due, False
            if not await sync(verify):
                due = clock() + min(retry, self._period)
                retry *= 2
            elif verify:
                due = clock() + self._period
                retry = _FIRST_RETRY_SECONDS
            await asyncio.sleep(self._min_period)

    async def _wait_for_need(self, until: float) -> bool:
        try:
            async with asyncio.timeout_at(until):
                await self._needed.wait()
        except TimeoutError:
            return False
        return True
