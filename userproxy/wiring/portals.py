"""Which portal driver serves each address family on this node, and the removal of what they leave."""

import asyncio
import os
import typing
from collections.abc import Iterable, Mapping
from typing import Final

import structlog

from userproxy.addresses import family_of
from userproxy.config import PortalMode, Settings
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.host import ipv6_usable, may_write_rules
from userproxy.portals.iptables.driver import IptablesDriver
from userproxy.portals.iptables.variant import installed
from userproxy.portals.lease import Ownership
from userproxy.portals.none import NoPortals
from userproxy.proxier.interfaces import PortalDriver

log = structlog.get_logger()

_UNSPECIFIED = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}
REMOVAL_SECONDS: Final = 10.0
"""How long a stop waits for rules to go: a third of what a Pod usually has for its whole end."""

_LOOPBACK = {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}

_FIRST_RETRY_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 30.0


class Driver(PortalDriver, typing.Protocol):
    """A portal driver, and the right to use it where only one process of a node can."""

    @property
    def ownership(self) -> Ownership | None:
        """None where any number can."""


def choose_portals(settings: Settings) -> tuple[Mapping[IPFamily, Driver], Mapping[IPFamily, str]]:
    """The driver of each family that this node has, and the address that listeners of each bind to.

    One mode holds for both families. Whether the tools of a driver work shows later (:func:`until_usable`). Raises
    KernelToolError where rules are wanted and this process may not write any: no later try would change that.
    """
    addresses = {family: _bind_address(settings, family) for family in IPFamily}
    families = [family for family in IPFamily if family is IPFamily.IPV4 or ipv6_usable()]
    if IPFamily.IPV6 not in families:
        log.info("IPv6 is not served: it is switched off in this kernel")
    if _with_rules(settings):
        log.info("Portals: iptables", bind_address=addresses[IPFamily.IPV4])
        shared = settings.proxy_name is not None
        return {family: IptablesDriver(addresses[family], family, shared=shared) for family in families}, addresses
    for family, address in addresses.items():
        addresses[family] = _LOOPBACK[family] if address == _UNSPECIFIED[family] else address
    return {family: NoPortals(addresses[family]) for family in families}, addresses


def _with_rules(settings: Settings) -> bool:
    """Whether there are to be rules. ``auto`` means none only for manifests, on a machine where nobody expects any."""
    if settings.portals is PortalMode.NONE:
        return False
    unusable = _unusable()
    if unusable is None:
        return True
    if settings.portals is PortalMode.AUTO and settings.manifests:
        log.warning("Portals: none, because iptables does not work here", reason=unusable)
        return False
    if may_write_rules():
        return True
    raise KernelToolError(f"--portals {settings.portals}: {unusable}. Without rules only `--portals none` serves")


def _unusable() -> str | None:
    """Why rules cannot be written whatever is tried, if so."""
    if not may_write_rules():
        return (
            f"writing rules takes the capability CAP_NET_ADMIN, which this process, of user {os.geteuid()}, does not"
            " have (a container has added capabilities as user 0 only)"
        )
    try:
        installed(IPFamily.IPV4)
    except KernelToolError as error:
        return str(error)
    return None


async def until_usable(family: IPFamily, driver: PortalDriver) -> None:
    """Return once the tools of `driver` work. Every new reason why they do not is logged once."""
    told = ""
    pause = _FIRST_RETRY_SECONDS
    while (refusal := await _refusal(driver)) is not None:
        if refusal != told:
            log.warning(
                f"{family} is not served yet: its rules cannot be read, and that is tried again", reason=refusal
            )
            told = refusal
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_RETRY_SECONDS)
    if told:
        log.info(f"{family}: the rules can be read now")


async def remove_portals(drivers: Iterable[tuple[IPFamily, PortalDriver]], seconds: float = REMOVAL_SECONDS) -> bool:
    """Remove everything of ours, of all families at the same time. False if some of it stays, which is logged."""
    outcomes = await asyncio.gather(*(_removed(family, driver, seconds) for family, driver in drivers))
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


async def _refusal(driver: PortalDriver) -> str | None:
    """Why the driver does not work, or None if it does."""
    try:
        await driver.local_ports()
    except KernelToolError as error:
        return str(error)
    return None


def _bind_address(settings: Settings, family: IPFamily) -> str:
    """``--bind-address`` for its own family, every address for the other."""
    ours = settings.bind_address
    return ours if family_of(ours) is family else _UNSPECIFIED[family]
