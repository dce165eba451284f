"""Whether portal drivers work on this node, and what their programs do beside them."""

import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Final

from userproxy.addresses import IPFamily
from userproxy.config import PortalMode, Settings
from userproxy.doctor.findings import Outcome, fail, ok, warn
from userproxy.errors import KernelToolError
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.host import CAP_SYS_ADMIN, has_capability, ipv6_usable, may_write_rules
from userproxy.portals.interface import PortalDriver
from userproxy.portals.iptables.chains import NAT
from userproxy.portals.iptables.driver import IptablesDriver
from userproxy.portals.iptables.variant import Variant, choose, installed, legacy_tables, traces
from userproxy.portals.programs import run_program

_WRITES_WRONG_JSON: Final = (1, 0, 6)
"""The last version of nft that does so for a table that has an owner."""
_VERSION: Final = re.compile(r"v(\d+)\.(\d+)(?:\.(\d+))?")


def drivers(settings: Settings) -> Iterator[Outcome]:
    """Each driver that may be taken, tried with rules of its kind; the first that works is taken."""
    if settings.portals is PortalMode.NONE:
        yield ok("--portals none: clients use the listeners' own ports, and nothing is needed")
        return
    asked = settings.portals is not PortalMode.AUTO
    kinds = [DRIVERS[settings.portals]] if asked else [kind for kind in DRIVERS.values() if kind.traits.serves_portals]
    taken = ""
    for kind in kinds:
        reasons = _reasons(kind)
        if IPFamily.IPV4 in reasons:
            yield _broken(kind.name, reasons[IPFamily.IPV4], asked=asked)
            continue
        first, taken = not taken, taken or kind.name
        yield from _working(kind.name, reasons, first=first)
    if not taken and not asked:
        yield fail(
            "no driver works here, so no client reaches a portal", "mend one of the above, or use --portals none"
        )


def taken_driver(settings: Settings) -> type[PortalDriver] | None:
    """The driver that would serve IPv4, None if none works."""
    if settings.portals is not PortalMode.AUTO:
        return DRIVERS[settings.portals]
    serving = (kind for kind in DRIVERS.values() if kind.traits.serves_portals)
    return next((kind for kind in serving if IPFamily.IPV4 not in _reasons(kind)), None)


def variants(settings: Settings) -> Iterator[Outcome]:
    """Whether iptables' two variants are mixed, and which one is written."""
    families = [IPFamily.IPV4, *([IPFamily.IPV6] if ipv6_usable() else [])]
    for family in families if may_write_rules() else ():
        try:
            found = traces(installed(family))
        except KernelToolError as error:
            needed = settings.portals is PortalMode.IPTABLES
            advice = "apt-get install iptables; --portals nftables and local do without"
            yield (fail if needed else warn)(f"{family}: {error}", advice)
            continue
        if not found:
            yield warn(f"{family}: no installed program can read this kernel's tables", "see the drivers that work")
            continue
        tools, reason = choose(found)
        filled = {each.variant: seen.size for each, seen in found.items() if seen.size}
        if len(filled) < len(Variant):
            yield ok(f"{family}: {tools.label} is the variant of this node, because {reason}")
            continue
        sizes = " and ".join(f"{variant} with {size}" for variant, size in filled.items())
        yield warn(
            f"{family}: both variants of iptables have rules and chains ({sizes}), and the kernel asks both;"
            f" {tools.label} is the one that userproxy writes, because {reason}",
            "find out who writes the other one (iptables-legacy-save, iptables-nft-save), and have all use one",
        )
    if not may_write_rules():
        yield warn("iptables' tables cannot be read without CAP_NET_ADMIN", "run as root")


def nft(settings: Settings) -> Iterator[Outcome]:
    """The program nft, which userproxy does not need, and which old versions of do not cope with its guard."""
    program = shutil.which("nft", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
    if program is None:
        yield ok("nft is not installed, and not needed")
        return
    match = _VERSION.search(run_program([program, "--version"]).stdout)
    if match is None:
        yield warn(f"{program} does not say its version", f"see what `{program} --version` prints")
        return
    version = tuple(int(part or 0) for part in match.groups())
    if version <= _WRITES_WRONG_JSON and settings.conntrack_guard and settings.portals is not PortalMode.NONE:
        yield warn(
            f"nft {match[0]} prints wrong JSON (`nft -j list ruleset`) while the table of --conntrack-guard stands",
            "take nft 1.0.7 or later, or --conntrack-guard=false where a program of this node reads that",
        )
    else:
        yield ok(f"nft {match[0]}")


def _reasons(kind: type[PortalDriver]) -> Mapping[IPFamily, str]:
    """Why it does not work, by family."""
    found = {}
    for family in IPFamily:
        if family is IPFamily.IPV4 or ipv6_usable():
            reason = _not_tried(family) if kind is IptablesDriver else None
            reason = reason or kind.unusable(family)
            if reason is not None:
                found[family] = reason
    return found


def _not_tried(family: IPFamily) -> str | None:
    """Why a trial of iptables would leave a trace: the kernel makes the legacy nat table for whoever looks into it."""
    if has_capability(CAP_SYS_ADMIN) or not may_write_rules() or NAT in legacy_tables(family):
        return None
    try:
        tools, _ = choose(traces(installed(family)))
    except KernelToolError as error:
        return str(error)
    if tools.variant is Variant.NFT:
        return None
    return "not tried, since without CAP_SYS_ADMIN a trial would make the nat table that is not there yet"


def _broken(name: str, reason: str, *, asked: bool) -> Outcome:
    if asked:
        return fail(f"{name} does not work here: {reason}", "install or load what is named, or use --portals auto")
    return warn(f"{name} does not work here: {reason}", "install or load what is named, if it is to serve")


def _working(name: str, reasons: Mapping[IPFamily, str], *, first: bool) -> Iterator[Outcome]:
    role = "works, and is what is taken" if first else "works, too"
    yield ok(f"{name} {role}")
    for family, reason in reasons.items():
        yield warn(
            f"{name} does not work for {family}: {reason}", f"{family} is served once it does; IPv4 is meanwhile"
        )
