"""When to sync: soon after a change, not too often, and now and then in any case."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

_FIRST_RETRY_SECONDS: Final = 0.5


class SyncRunner:
    """Says when to sync, as kube-proxy's bounded-frequency runner does; periods are seconds.

    - Nothing runs before the first request: only then does the source know what is wanted.
    - A request is served at once, but at least `min_period` after the end of the run before; requests
      in between make one run.
    - Every `period` there is a run in any case, with `verify` True: it repairs what others have broken.
    - A run that returns False is tried again, first after half a second, then ever more slowly up to
      `period` (kube-proxy waits the whole period each time).
    """

    def __init__(self, min_period: float, period: float) -> None:
        self._min_period = min_period
        self._period = period
        self._requested = asyncio.Event()

    def set_periods(self, min_period: float, period: float) -> None:
        """Use other periods from the next run on."""
        self._min_period = min_period
        self._period = period

    def request(self) -> None:
        """Ask for a run. Called on the loop's thread."""
        self._requested.set()

    async def run(self, sync: Callable[[bool], Awaitable[bool]]) -> None:
        """Call `sync(verify)` when it is time, until cancelled. Requests do not interrupt a run under way."""
        clock = asyncio.get_running_loop().time
        retry = _FIRST_RETRY_SECONDS
        await self._requested.wait()
        due = clock() + self._period  # requests do not put it off
        while True:
            requested = await self._wait_for_request(due)
            self._requested.clear()
            verify = not requested or clock() >= due
            if not await sync(verify):
                due = clock() + min(retry, self._period)
                retry *= 2
            elif verify:
                due = clock() + self._period
                retry = _FIRST_RETRY_SECONDS
            await asyncio.sleep(self._min_period)

    async def _wait_for_request(self, until: float) -> bool:
        try:
            async with asyncio.timeout_at(until):
                await self._requested.wait()
        except TimeoutError:
            return False
        return True
