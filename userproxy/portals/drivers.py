"""The portal drivers by name, and which one ``--portals auto`` takes."""

from collections.abc import Mapping
from typing import Final

from userproxy.portals.interface import PortalDriver
from userproxy.portals.iptables.driver import IptablesDriver
from userproxy.portals.none import NoPortals

DRIVERS: Final[Mapping[str, type[PortalDriver]]] = {driver.name: driver for driver in (IptablesDriver, NoPortals)}
"""In the order in which ``auto`` tries them."""
