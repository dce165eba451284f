"""Which portal driver serves each address family on this node, and the removal of what they leave."""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from userproxy.config import PortalMode, Settings
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.host import ipv6_usable
from userproxy.portals.iptables import IptablesDriver
from userproxy.portals.none import NoPortals
from userproxy.proxier.seams import PortalDriver

log = structlog.get_logger()

_UNSPECIFIED = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}
REMOVAL_SECONDS: Final = 10.0
"""How long a stop waits for rules to go: a third of what a Pod usually has for its whole end."""

_LOOPBACK = {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}


async def choose_portals(settings: Settings) -> tuple[Mapping[IPFamily, PortalDriver], Mapping[IPFamily, str]]:
    """The driver of each family that can be served, and the address that listeners of each bind to.

    IPv4 always can. One mode holds for both: a node without IPv6 tables has no IPv6, rather than IPv6 without portals.
    """
    addresses = {family: _bind_address(settings, family) for family in IPFamily}
    shared = settings.proxy_name is not None
    drivers: dict[IPFamily, PortalDriver] = {}
    if settings.portals is not PortalMode.NONE:
        driver = IptablesDriver(addresses[IPFamily.IPV4], IPFamily.IPV4, shared=shared)
        refusal = await _refusal(driver)
        if refusal is None:
            log.info("Portals: iptables", bind_address=addresses[IPFamily.IPV4])
            drivers[IPFamily.IPV4] = driver
        elif settings.portals is PortalMode.IPTABLES:
            log.error("iptables does not work yet, and will be tried again", reason=str(refusal))
            drivers[IPFamily.IPV4] = driver
        else:
            await driver.close()
            log.warning("Portals: none, because iptables does not work here", reason=str(refusal))
    without = not drivers
    if without:
        for family, address in addresses.items():
            addresses[family] = _LOOPBACK[family] if address == _UNSPECIFIED[family] else address
        drivers[IPFamily.IPV4] = NoPortals(addresses[IPFamily.IPV4])
    if not ipv6_usable():
        log.info("IPv6 is not served: it is switched off in this kernel")
    elif without:
        drivers[IPFamily.IPV6] = NoPortals(addresses[IPFamily.IPV6])
    else:
        driver = IptablesDriver(addresses[IPFamily.IPV6], IPFamily.IPV6, shared=shared)
        refusal = await _refusal(driver)
        if refusal is None:
            drivers[IPFamily.IPV6] = driver
        else:
            await driver.close()
            log.warning("IPv6 is not served, because ip6tables does not work here", reason=str(refusal))
    return drivers, addresses


async def remove_portals(drivers: Mapping[IPFamily, PortalDriver], seconds: float = REMOVAL_SECONDS) -> bool:
    """Remove everything of ours, of all families at the same time. False if some of it stays, which is logged."""
    outcomes = await asyncio.gather(*(_removed(family, driver, seconds) for family, driver in drivers.items()))
    return all(outcomes)


async def _removed(family: IPFamily, driver: PortalDriver, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            removed = await driver.remove()
    except TimeoutError:
        reason = f"not done within {seconds:g} s"
    except KernelToolError as error:
        reason = str(error)
    else:
        for text in removed:
            log.debug("Removed", v=1, what=text)
        return True
    log.error("Portals stay until `userproxy cleanup`", portals=driver.name, family=family, reason=reason)
    return False


async def _refusal(driver: IptablesDriver) -> KernelToolError | None:
    """Why the driver does not work, or None if it does."""
    try:
        await driver.local_ports()
    except KernelToolError as error:
        return error
    return None


def _bind_address(settings: Settings, family: IPFamily) -> str:
    """``--bind-address`` for its own family, every address for the other."""
    ours = settings.bind_address
    return ours if (":" in ours) == (family is IPFamily.IPV6) else _UNSPECIFIED[family]
