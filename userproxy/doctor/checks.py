"""All checks, in the order in which they are told."""

from collections.abc import Iterator, Mapping
from typing import Final

from userproxy.config import Settings
from userproxy.doctor import client_address, drivers, kernel, network, others, privileges
from userproxy.doctor.api import api
from userproxy.doctor.findings import Check, Finding, Result
from userproxy.errors import UserproxyError

CHECKS: Final[Mapping[str, Check]] = {
    "capabilities": privileges.capabilities,
    "descriptors": privileges.descriptors,
    "portal drivers": drivers.drivers,
    "iptables": drivers.variants,
    "nft": drivers.nft,
    "kernel": kernel.modules,
    "conntrack": kernel.conntrack,
    "node address": network.node_address,
    "links": network.links_without_address,
    "forwarding": network.forwarding,
    "rp_filter": network.reverse_path,
    "route_localnet": network.localnet,
    "br_netfilter": network.bridges,
    "arp_ignore": network.arp,
    "client address": client_address.client_address,
    "other proxies": others.other_proxies,
    "lease": others.lease,
    "ports": others.ports,
    "API server": api,
}


def examine(settings: Settings, checks: Mapping[str, Check] = CHECKS) -> Iterator[Finding]:
    """What each check finds, one after the other, for a proxy with these settings. Blocking; changes nothing.

    A check that cannot look is a warning.
    """
    for name, check in checks.items():
        try:
            for outcome in check(settings):
                yield Finding(name, outcome.result, outcome.text, outcome.advice)
        except (UserproxyError, OSError) as error:
            yield Finding(name, Result.WARN, f"cannot be looked at: {error}", "run as root, on the node's own network")
