"""What earlier processes have left by other drivers: removed once the driver that serves now has its portals."""

import asyncio
from functools import partial
from typing import Final

import structlog

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily, Protocol
from userproxy.portals.cleanup import clean_up_after_others
from userproxy.portals.interface import Cleaned, PortalDriver
from userproxy.portals.local.routes import LocalRoutes
from userproxy.portals.netlink.conntrack import Conntrack, ConntrackEntry
from userproxy.portals.return_path.keeper import ReturnPathKeeper
from userproxy.proxier.family.options import OthersCleaned

log = structlog.get_logger()

_PROTOCOLS: Final = (Protocol.TCP, Protocol.UDP)


class Leftovers:
    """Those of one address family; so is the way back for clients' addresses, unless `return_path` is needed."""

    def __init__(self, family: IPFamily, return_path: ReturnPathKeeper | None = None) -> None:
        self._family = family
        self._return_path = return_path
        self._told: set[str] = set()

    async def clean_up(self, serving: PortalDriver) -> OthersCleaned:
        """Remove them as far as no connection needs them. What cannot be removed is logged.

        UDP clients then no longer follow conntrack entries of drivers that did not translate, or did where nobody does
        any more. Entries by which one translating driver contradicts another are the caller's to look for.

        A driver without a lease removes nothing: any number of processes may serve so, beside whoever has the portals.
        """
        if serving.lease is None:
            return OthersCleaned()
        cleaned, no_longer_local = await asyncio.to_thread(self._clean_up, serving)
        self._tell(cleaned)
        if no_longer_local and serving.traits.translates:
            await Conntrack(self._family).delete(_PROTOCOLS, partial(_is_untranslated, no_longer_local))
        elif cleaned.said and not serving.traits.translates:
            await Conntrack(self._family).delete(_PROTOCOLS, _is_translated)
        return OthersCleaned(bool(cleaned.said), not (cleaned.failed or cleaned.in_use))

    def _clean_up(self, serving: PortalDriver) -> tuple[Cleaned, frozenset[str]]:
        """What was done, and which addresses routes made local before."""
        before = self._local_addresses()
        keeps = self._return_path is not None and self._return_path.needed
        cleaned = clean_up_after_others(self._family, serving, keeps_return_path=keeps)
        return cleaned, before - self._local_addresses()

    def _local_addresses(self) -> frozenset[str]:
        try:
            return LocalRoutes(self._family).standing()
        except KernelToolError:
            return frozenset()

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


def _is_translated(entry: ConntrackEntry) -> bool:
    """Whether packets are led to another port of this node, as rules had it: a UDP client's would go on being so."""
    return entry.reply_local and (entry.reply_source, entry.reply_port) != (entry.destination, entry.port)


def _is_untranslated(portals: frozenset[str], entry: ConntrackEntry) -> bool:
    """Whether an entry is of one of these `portals`, from before there were rules for it.

    Where the listener's last answer made the entry, the portal is its source.
    """
    return entry.source in portals or (entry.destination in portals and entry.reply_source == entry.destination)
