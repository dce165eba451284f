"""Which portal driver serves each address family on this node, and the removal of what they leave."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

import structlog

from userproxy.addresses import family_of
from userproxy.config import PortalMode, Settings
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.drivers import DRIVERS, first_usable
from userproxy.portals.host import ipv6_usable, may_write_rules
from userproxy.portals.interface import DriverOptions, PortalDriver, Traits
from userproxy.portals.none import NoPortals
from userproxy.portals.remembered_ports import default_path

log = structlog.get_logger()

_UNSPECIFIED = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}
REMOVAL_SECONDS: Final = 10.0
"""How long a stop waits for rules to go: a third of what a Pod usually has for its whole end."""

_LOOPBACK = {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}

_FIRST_RETRY_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 30.0


def choose_portals(settings: Settings) -> tuple[Mapping[IPFamily, PortalDriver], Mapping[IPFamily, str]]:
    """The driver of each family that this node has, and the address that listeners of each bind to.

    One kind of driver serves both families. Whether its tools work shows later (:func:`until_usable`). Raises
    KernelToolError where the one that is asked for cannot work here whatever is tried later.
    """
    families = [family for family in IPFamily if family is IPFamily.IPV4 or ipv6_usable()]
    if IPFamily.IPV6 not in families:
        log.info("IPv6 is not served: it is switched off in this kernel")
    kind = _kind(settings)
    addresses = {family: _bind_address(settings, family, kind.traits) for family in IPFamily}
    if kind.traits.serves_portals:
        log.info(f"Portals: {kind.name}", bind_address=addresses[IPFamily.IPV4])
    if settings.external_ips_allowed and not serves_external_ips(settings, kind.traits):
        log.info(
            "External IPs are not served, unless --feature-gates AllowServiceExternalIPs=true says so: with this driver"
            " a Service that claims one takes all ports of that address",
            portals=kind.name,
        )
    return {family: make_driver(settings, family, kind) for family in families}, addresses


def serves_external_ips(settings: Settings, traits: Traits) -> bool:
    """Whether ``externalIPs`` of Services count. Where portals are bound they have to be asked for.

    Whoever may create a Service may name any address there, the API server's for instance, and a route takes all ports
    of it away from its owner.
    """
    if traits.binds_portals:
        return settings.configuration.external_ips_asked_for
    return settings.external_ips_allowed


def make_driver(settings: Settings, family: IPFamily, kind: type[PortalDriver]) -> PortalDriver:
    """A driver of a family as the settings want it. Nothing is looked at or changed yet."""
    return kind(
        DriverOptions(
            family,
            _bind_address(settings, family, kind.traits),
            settings.proxy_name is not None,
            settings.conntrack_guard,
            settings.local_ports_file or default_path(),
            _source(settings),
        )
    )


def _source(settings: Settings) -> str:
    """A text that names the source of Services: other manifests or another API server have another one."""
    if settings.manifests:
        return f"manifests {' '.join(sorted(str(path.absolute()) for path in settings.manifests))}"
    kubeconfig = settings.kubeconfig.absolute() if settings.kubeconfig is not None else ""
    return f"cluster {settings.master or ''} {kubeconfig} {settings.context or ''}"


def _kind(settings: Settings) -> type[PortalDriver]:
    if settings.portals is PortalMode.AUTO:
        return _best(with_manifests=bool(settings.manifests))
    kind = DRIVERS[settings.portals]
    if may_write_rules() or (unusable := kind.unusable(IPFamily.IPV4)) is None:
        return kind
    return _if_permitted(kind, settings.portals, unusable)


def _best(*, with_manifests: bool) -> type[PortalDriver]:
    """What ``auto`` takes. That is none only for manifests, on a machine where nobody expects rules."""
    found, reasons = first_usable(IPFamily.IPV4)
    for name, reason in reasons.items():
        log.info(f"Portals: not {name}, which does not work here", reason=reason)
    if found is not None:
        return found
    why = "; ".join(dict.fromkeys(reasons.values()))
    if with_manifests:
        log.warning(f"Portals: none, because {' and '.join(reasons)} cannot work here", reason=why)
        return NoPortals
    return _if_permitted(next(iter(DRIVERS.values())), PortalMode.AUTO, why)


def _if_permitted(kind: type[PortalDriver], asked: PortalMode, unusable: str) -> type[PortalDriver]:
    """`kind`, which does not work yet, but may once its programs and modules are installed.

    Raises KernelToolError without the capability to write rules.
    """
    if may_write_rules():
        return kind
    raise KernelToolError(f"--portals {asked}: {unusable}. Without rules only `--portals none` serves")


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


def _bind_address(settings: Settings, family: IPFamily, traits: Traits) -> str:
    """``--bind-address`` for its own family, every address for the other; loopback if no portals are served."""
    ours = settings.bind_address
    address = ours if family_of(ours) is family else _UNSPECIFIED[family]
    return address if traits.serves_portals or address != _UNSPECIFIED[family] else _LOOPBACK[family]
