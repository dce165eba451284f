"""Reading a node's rules of either family, to wait for them and to find the random local ports in them."""

import re
from pathlib import Path

from userproxy.demo.hosts import Host
from userproxy.model import IPFamily

_COMMANDS = {
    IPFamily.IPV4: ("iptables-nft-save", "iptables-legacy-save"),
    IPFamily.IPV6: ("ip6tables-nft-save", "ip6tables-legacy-save"),
}

_LEGACY_TABLES = {
    IPFamily.IPV4: Path("/proc/thread-self/net/ip_tables_names"),
    IPFamily.IPV6: Path("/proc/thread-self/net/ip6_tables_names"),
}
"""From these iptables-legacy-save knows what to print. It is asked again and again, and rarely is there anything."""


def rules(host: Host, *families: IPFamily) -> list[str]:
    """Every rule (``-A ...``) and every chain of Kubernetes' kind (``:KUBE-...``), as iptables-save prints them.

    Those of both families and of both variants of iptables, if no family is named.
    """
    lines: list[str] = []
    for family in families or IPFamily:
        nft, legacy = _COMMANDS[family]
        for command in (nft, legacy) if host.inside(_has_legacy_tables, family) else (nft,):
            done = host.run([command], check=False, brief=True)  # legacy's complains where the kernel lacks IPv6
            lines += [line for line in done.stdout.splitlines() if line.startswith(("-A", ":KUBE-"))]
    return lines


def _has_legacy_tables(family: IPFamily) -> bool:
    try:
        return bool(_LEGACY_TABLES[family].read_text())
    except FileNotFoundError:
        return False


def local_ports(host: Host, portal: str, family: IPFamily = IPFamily.IPV4, protocol: str = "tcp") -> set[int]:
    """The local ports to which rules redirect packets for a portal.

    `portal` is part of the rule: ``-d 10.96.0.10/32``, ``--dport 30080``, or a service port's name as in its comment.
    """
    mine = [rule for rule in rules(host, family) if portal in rule and f"-p {protocol} " in rule]
    found = (re.search(r"--to-ports (\d+)|--to-destination \S+:(\d+)", rule) for rule in mine)
    return {int(match[1] or match[2]) for match in found if match}
