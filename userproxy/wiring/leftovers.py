"""What earlier processes have left by other drivers: removed once the driver that serves now has its portals."""

import asyncio

import structlog

from userproxy.model import IPFamily
from userproxy.portals.cleanup import clean_up_after_others
from userproxy.portals.interface import Cleaned, PortalDriver

log = structlog.get_logger()


class Leftovers:
    """Those of one address family."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._told: set[str] = set()

    async def clean_up(self, serving: PortalDriver) -> bool:
        """Remove them as far as no connection needs them; whether nothing is left. What cannot be removed is logged.

        A driver without a lease removes nothing: any number of processes may serve so, beside whoever has the portals.
        """
        if serving.lease is None:
            return True
        cleaned = await asyncio.to_thread(clean_up_after_others, self._family, serving)
        self._tell(cleaned)
        return not (cleaned.failed or cleaned.in_use)

    def _tell(self, cleaned: Cleaned) -> None:
        for text in cleaned.said:
            log.info("Removed what another portal driver had left", family=self._family, what=text)
        for text in {*cleaned.failed} - self._told:
            log.warning(
                "What another portal driver has left stays, and may lead clients past us",
                family=self._family,
                reason=text,
            )
        for text in {*cleaned.in_use} - self._told:
            log.info("Connections go on by what another portal driver has left", family=self._family, what=text)
        self._told.update(cleaned.failed, cleaned.in_use)
