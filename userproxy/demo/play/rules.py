"""Reading a host's iptables rules, in whichever variant they were written."""

import re
from typing import Literal

from userproxy.demo.hosts import Host
from userproxy.demo.tools import missing_tools

Variant = Literal["", "legacy", "nft"]

_PORTAL_CHAINS = re.compile(r"\bKUBE-(PORTALS|NODEPORT)-")


def iptables_save(host: Host, variant: Variant = "") -> str:
    """What ``iptables-save`` of that variant prints in the host; without a variant, the system's choice."""
    return host.run(["iptables-save" if not variant else f"iptables-{variant}-save"]).stdout


def portal_rules(host: Host) -> list[str]:
    """The lines of ``iptables-save`` that name a portal chain, under a ``*table`` line for each table.

    Both variants are read where both are installed. Empty where userproxy has no rule and no chain.
    """
    lines: list[str] = []
    for variant in _variants():
        table = ""
        for line in iptables_save(host, variant).splitlines():
            if line.startswith("*"):
                table = line
            elif _PORTAL_CHAINS.search(line):
                lines += [table, line] if table else [line]
                table = ""
    return lines


def _variants() -> tuple[Variant, ...]:
    named: tuple[Variant, ...] = ("nft", "legacy")
    return tuple(name for name in named if not missing_tools([f"iptables-{name}-save"])) or ("",)
