"""Which iptables this node uses: the legacy tables or those of nf_tables.

The kernel would evaluate the rules of both, in an order that nobody chose, so the two are never mixed. The checks and
their order are those of kubernetes-sigs/iptables-wrappers: kubelet makes the chains KUBE-IPTABLES-HINT and
KUBE-KUBELET-CANARY in the mangle table of the variant that it uses.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path

import structlog
from msgspec import Struct

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.iptables.parser import parse_save
from userproxy.portals.programs import kernel_lacks_it, run_program, save

log = structlog.get_logger()

_HINTS = frozenset({"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"})
_BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_STEMS = {IPFamily.IPV4: "iptables", IPFamily.IPV6: "ip6tables"}
_SYSTEM_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"


class Variant(StrEnum):
    """Where the kernel keeps the rules. The order is that of preference, where both have kubelet's chains."""

    NFT = "nft"
    LEGACY = "legacy"


class Tools(Struct, frozen=True):
    """The programs of one variant, as absolute paths; `reason` is a clause that says why this variant was chosen."""

    family: IPFamily
    variant: Variant
    save: str
    restore: str
    reason: str = ""

    @property
    def label(self) -> str:
        return f"{_STEMS[self.family]}-{self.variant}"


class Trace(Struct):
    """What a variant's tables have: kubelet's chain, if any, and the number of rules and chains of all programs."""

    hint: str
    size: int


def detect(family: IPFamily) -> Tools:
    """The variant that this node uses, judged by what is in the kernel.

    Looking creates no table. Raises KernelToolError where iptables is not installed, or a variant cannot be read that
    may be the one in use.
    """
    found = installed(family)
    seen = traces(found)
    if not seen:
        names = ", ".join(tools.save for tools in found)
        raise KernelToolError(f"no program of {names} can read this kernel's tables")
    tools, reason = choose(seen)
    return Tools(tools.family, tools.variant, tools.save, tools.restore, reason)


def traces(found: Iterable[Tools]) -> dict[Tools, Trace]:
    """What the tables of each variant have that works here. Raises KernelToolError as `detect` does."""
    return {tools: trace for tools in found if (trace := _trace(tools)) is not None}


def installed(family: IPFamily) -> tuple[Tools, ...]:
    """The variants whose programs are installed. Raises KernelToolError where none is.

    A plain ``iptables-save`` counts as the variant that ``iptables --version`` names, where no program
    carries that variant in its name. The same goes for ip6tables.
    """
    found: dict[Variant, Tools] = {}
    stem = _STEMS[family]
    for variant in Variant:
        _add(found, family, variant, f"{stem}-{variant}")
    if which(f"{stem}-save"):
        _add(found, family, _default(family), stem)
    if not found:
        raise KernelToolError(
            f"{stem} is not installed (package iptables): no {stem}-nft-save, {stem}-legacy-save or"
            f" {stem}-save was found"
        )
    return tuple(found.values())


def legacy_tables(family: IPFamily) -> frozenset[str]:
    """The legacy tables that exist in this thread's network namespace. Does not create any."""
    # /proc/net is the main thread's namespace.
    names = Path(f"/proc/thread-self/net/{'ip6' if family is IPFamily.IPV6 else 'ip'}_tables_names")
    try:
        return frozenset(names.read_text().split())
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise KernelToolError(f"{names} cannot be read: {error.strerror}") from error


def choose(traces: Mapping[Tools, Trace]) -> tuple[Tools, str]:
    """Which of them this node uses, and why, as a clause. There is at least one."""
    tools, trace = max(traces.items(), key=lambda item: item[1].size)
    if len(traces) == 1:
        return tools, "it is the only one that works here"
    for candidate, seen in traces.items():
        if seen.hint:
            return candidate, f"kubelet made the chain {seen.hint} there"
    if trace.size > min(seen.size for seen in traces.values()):
        return tools, f"it holds more rules and chains than the other one ({trace.size})"
    default = _default(tools.family)
    by_version = next(candidate for candidate in traces if candidate.variant is default)
    return by_version, f"it is what {_STEMS[tools.family]} --version names"


def _trace(tools: Tools) -> Trace | None:
    if tools.variant is Variant.LEGACY and not legacy_tables(tools.family):
        return Trace("", 0)
    try:
        tables = parse_save(save(tools.save))
    except KernelToolError as error:
        if tools.variant is Variant.LEGACY:
            # Its tables exist, so this node may well use them: taking the other variant would be a guess.
            raise KernelToolError(
                f"{error}; reading legacy tables takes CAP_NET_RAW as well as CAP_NET_ADMIN"
            ) from error
        if not kernel_lacks_it(error):
            raise  # it may be the one in use, and fail only now
        log.debug("One variant of iptables does not work here", v=2, variant=tools.label, err=str(error))
        return None
    hints = sorted(_HINTS & tables.get("mangle", {}).keys())
    size = sum(len(rules) + (name not in _BUILT_IN) for chains in tables.values() for name, rules in chains.items())
    return Trace(hints[0] if hints else "", size)


def _default(family: IPFamily) -> Variant:
    program = which(_STEMS[family])
    # Before 1.8 there was only legacy, and the version did not say so.
    return Variant.NFT if program and "nf_tables" in run_program([program, "--version"]).stdout else Variant.LEGACY


def _add(found: dict[Variant, Tools], family: IPFamily, variant: Variant, stem: str) -> None:
    saver, restorer = which(f"{stem}-save"), which(f"{stem}-restore")
    if saver and restorer:
        found.setdefault(variant, Tools(family, variant, saver, restorer))


def which(program: str) -> str | None:
    """The path of a program, also where PATH has no system directories; None where it is not installed."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATHS}")
