"""``--portals auto`` goes on looking for a better driver than the one that it found at the start."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from userproxy.model import IPFamily
from userproxy.portals.drivers import better_than, first_usable
from userproxy.portals.interface import PortalDriver

log = structlog.get_logger()


async def follow_better(
    serving: type[PortalDriver], period: float, move: Callable[[type[PortalDriver]], Awaitable[bool]]
) -> None:
    """Look every `period` seconds whether a driver works that comes before `serving`, in a thread, until cancelled.

    Where the listeners can stay as they are, `move` has the better one serve, and returns whether that was possible;
    if not, it is tried again. Where they cannot, it is logged once that a restart takes the better one.
    """
    told: set[str] = set()
    while better := better_than(serving):
        await asyncio.sleep(period)
        found, _ = await asyncio.to_thread(first_usable, IPFamily.IPV4, better)
        if found is None or found.name in told:
            continue
        if found.traits == serving.traits:
            if await move(found):
                log.info(f"Portals: {found.name} from now on, which works by now", before=serving.name)
                serving = found
        else:
            told.add(found.name)
            log.warning(f"Portals: {found.name} works by now, and a restart takes it", until_then=serving.name)
