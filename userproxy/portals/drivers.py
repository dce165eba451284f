"""The portal drivers by name, and the order in which ``--portals auto`` tries them."""

from collections.abc import Mapping
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


def first_usable(family: IPFamily) -> tuple[type[PortalDriver] | None, Mapping[str, str]]:
    """The first driver that brings clients to portals here, if any, and why each before it cannot. Blocking."""
    reasons: dict[str, str] = {}
    for name, driver in DRIVERS.items():
        if driver.traits.serves_portals:
            reason = driver.unusable(family)
            if reason is None:
                return driver, reasons
            reasons[name] = reason
    return None, reasons
