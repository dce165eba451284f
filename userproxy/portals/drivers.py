"""The portal drivers by name, and the order in which ``--portals auto`` tries them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from userproxy.addresses import IPFamily
from userproxy.portals.interface import PortalDriver
from userproxy.portals.iptables.driver import IptablesDriver
from userproxy.portals.local.driver import LocalDriver
from userproxy.portals.nftables.driver import NftablesDriver
from userproxy.portals.none import NoPortals

DRIVERS: Final[Mapping[str, type[PortalDriver]]] = {
    driver.name: driver for driver in (IptablesDriver, NftablesDriver, LocalDriver, NoPortals)
}
"""By what ``--portals`` calls them, the best first."""


def first_usable(
    family: IPFamily, among: Iterable[type[PortalDriver]] = DRIVERS.values()
) -> tuple[type[PortalDriver] | None, Mapping[str, str]]:
    """The first driver that brings clients to portals here, if any, and why each before it cannot. Blocking."""
    reasons: dict[str, str] = {}
    for driver in among:
        if driver.traits.serves_portals:
            reason = driver.unusable(family)
            if reason is None:
                return driver, reasons
            reasons[driver.name] = reason
    return None, reasons


def better_than(serving: type[PortalDriver]) -> Sequence[type[PortalDriver]]:
    """The drivers that ``--portals auto`` would rather have, the best first."""
    drivers = list(DRIVERS.values())
    return drivers[: drivers.index(serving)]
