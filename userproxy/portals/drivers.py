"""The portal drivers by name, and the order in which ``--portals auto`` tries them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Final

from userproxy.addresses import IPFamily
from userproxy.portals.interface import PortalDriver

_HOMES: Final = {
    "iptables": ("userproxy.portals.iptables.driver", "IptablesDriver"),
    "nftables": ("userproxy.portals.nftables.driver", "NftablesDriver"),
    "local": ("userproxy.portals.local.driver", "LocalDriver"),
    "none": ("userproxy.portals.none", "NoPortals"),
}


class _Drivers(Mapping[str, type[PortalDriver]]):
    """Imports a driver when it is asked for: a start needs one of them, and all took a twentieth of it."""

    def __getitem__(self, name: str) -> type[PortalDriver]:
        module, kind = _HOMES[name]
        found: type[PortalDriver] = getattr(import_module(module), kind)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


DRIVERS: Final[Mapping[str, type[PortalDriver]]] = _Drivers()
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
