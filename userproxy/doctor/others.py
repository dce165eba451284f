"""Who else serves this node, or has what we need."""

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from userproxy.addresses import IPFamily, SocketAddress, family_of
from userproxy.config import PortalMode, Settings
from userproxy.doctor.findings import Outcome, fail, ok, warn
from userproxy.errors import KernelToolError
from userproxy.model import Protocol
from userproxy.portals.host import ipv6_usable
from userproxy.portals.iptables.other_proxies import rules_of_others
from userproxy.portals.lease import Holder, holder
from userproxy.portals.local.wildcards import programs_with
from userproxy.portals.netlink import rtnetlink
from userproxy.portals.netlink.sock_diag import listening

_IPVS: Final = "kube-ipvs0"
"""The link on which kube-proxy's ipvs mode puts the addresses of Services."""


def other_proxies(settings: Settings) -> Iterator[Outcome]:
    """What kube-proxy has written, in whatever mode."""
    found: list[str] = []
    for family in IPFamily:
        if family is IPFamily.IPV4 or ipv6_usable():
            try:
                found += [f"{family} {what}" for what in rules_of_others(family)]
            except (KernelToolError, OSError) as error:
                yield warn(f"{family}: rules of kube-proxy cannot be looked for: {error}", "run as root")
    if any(link.name == _IPVS for link in rtnetlink.links()):
        found.append(f"link {_IPVS}")
    if not found:
        yield ok("there is nothing of kube-proxy")
    elif settings.proxy_name is not None:
        yield ok(f"there is what kube-proxy has written ({', '.join(found)}), as --service-proxy-name expects")
    else:
        yield warn(
            f"there is what kube-proxy has written, which may lead clients past userproxy: {', '.join(found)}",
            "stop kube-proxy and run `kube-proxy --cleanup`, or share the node with it: --service-proxy-name",
        )


def lease(settings: Settings) -> Iterator[Outcome]:
    """Which userproxy keeps this node's portals."""
    if settings.portals is PortalMode.NONE:
        yield ok("--portals none: any number of processes may serve")
        return
    for family in IPFamily:
        found = holder(family)
        if found is None:
            yield ok(f"{family}: no userproxy keeps the portals of this node")
        else:
            yield ok(f"{family}: {_named(found)} keeps the portals of this node; another one would wait for its end")


def ports(settings: Settings) -> Iterator[Outcome]:
    """Whether the ports of health checks and metrics are free."""
    keepers = {found.inode for family in IPFamily if (found := holder(family)) is not None}
    ours = set(programs_with(keepers).values())
    servers = (("healthz", settings.healthz_bind_address), ("metrics", settings.metrics_bind_address))
    for name, address in servers:
        if address is not None and address.port:
            yield _port(name, address, ours)


def _port(name: str, address: SocketAddress, ours: set[str]) -> Outcome:
    inodes = [inode for ip, inode in _listening(address) if _meet(ip, address.host)]
    flag = f"--{name}-bind-address"
    if not inodes:
        return ok(f"{flag}: {address} is free")
    programs = sorted(set(programs_with(inodes).values()))
    if programs and ours.issuperset(programs):
        return ok(f"{flag}: {', '.join(programs)} listens on {address}: the userproxy that runs here")
    whose = ", ".join(programs) or "a program that /proc does not show"
    return fail(f"{flag}: {whose} listens on {address}", f"stop that program, or name another address by {flag}")


def _listening(address: SocketAddress) -> Iterator[tuple[str, int]]:
    """Who hears one of the families that a server at `address` hears."""
    asked = ip_address(address.host)
    both = asked.version == 6 and asked.is_unspecified
    for family in IPFamily:
        if both or family is family_of(address.host):
            yield from listening(family, Protocol.TCP, address.port)


def _meet(one: str, other: str) -> bool:
    """Whether two sockets at these addresses, of one port, are in each other's way."""
    return one == other or ip_address(one).is_unspecified or ip_address(other).is_unspecified


def _named(found: Holder) -> str:
    program = programs_with([found.inode]).get(found.inode, "a process that /proc does not show")
    return program if found.user is None else f"{program} of user {found.user}"
