"""What this host has: its addresses, of which one leads its own processes to our listeners; IPv6; our capabilities."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import structlog

from userproxy.addresses import of_family
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily, LocalTraffic
from userproxy.portals.netlink import rtnetlink
from userproxy.portals.netlink.rtnetlink import Address, Link

log = structlog.get_logger()

_LOOPBACK = 1  # LOOPBACK_IFINDEX, include/net/flow.h: in every network namespace
_SEND_ONLY = frozenset({"dummy", "ifb", "nlmon"})
CAP_NET_BIND_SERVICE = 10  # linux/capability.h
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_SYS_ADMIN = 21


class HostAddress:
    """Finds the address that DNAT in OUTPUT leads to, as kube-proxy's userspace mode does. Blocking."""

    def __init__(self, bind_address: str, family: IPFamily) -> None:
        self._bind_address = bind_address
        self._family = family
        self._told = False

    def lookup(self) -> str:
        """The bind address where that is a specific one; else the address on the default route's interface.

        Without a default route it is the first global address of an interface that is up, which is
        logged once. Raises KernelToolError where there is no such address either.
        """
        if self._bind_address and not ip_address(self._bind_address).is_unspecified:
            return self._bind_address
        with _kernel_errors():
            by_link = _global_addresses(rtnetlink.addresses(self._family))
            # A default route's link is up: the kernel takes a route away when its link goes down.
            for route in rtnetlink.default_routes(self._family):
                if found := route.source or by_link.get(route.link):
                    self._told = False
                    return found
            usable = {link.number for link in rtnetlink.links() if link.is_up} if by_link else set()
        return self._first(ip for link, ip in by_link.items() if link in usable)

    def _first(self, ips: Iterator[str]) -> str:
        chosen = next(ips, None)
        if chosen is None:
            what = f"global {self._family} address"
            raise KernelToolError(f"no interface that is up has a {what}, so node traffic cannot be led to us")
        if not self._told:
            log.warning("No default route: taking the first global address as the node's", address=chosen)
            self._told = True
        return chosen

    def links_without_address(self) -> list[str]:
        """The links by which packets may come in, and which have no global address. Raises KernelToolError."""
        if self._bind_address and not ip_address(self._bind_address).is_unspecified:
            return []
        with _kernel_errors():
            return without_address(rtnetlink.links(), rtnetlink.addresses(self._family))

    def addresses(self) -> frozenset[str]:
        """Every address of the family that an interface has now, loopback's too. Raises KernelToolError."""
        with _kernel_errors():
            return frozenset(address.ip for address in rtnetlink.addresses(self._family))


def pod_networks(local_traffic: LocalTraffic, family: IPFamily) -> tuple[str, ...]:
    """The networks of this node's Pods: those that are named, and what the main table has behind their interfaces.

    Sorted. Blocking. Raises KernelToolError.
    """
    named = of_family(local_traffic.networks, family)
    pattern = local_traffic.interface
    if not pattern:
        return tuple(sorted(named))
    prefix = pattern.removesuffix("+")
    with _kernel_errors():
        behind = {
            link.number
            for link in rtnetlink.links()
            if link.name == pattern or (prefix != pattern and link.name.startswith(prefix))
        }
        routed = (network for network, link in rtnetlink.networks(family) if link in behind)
        return tuple(sorted({*named, *routed}))


def without_address(links: Iterable[Link], addresses: Iterable[Address]) -> list[str]:
    """The names of those links by which packets may come in, and which have no global address. Pure.

    Link-local addresses do not count: the kernel cannot use those of IPv6 before it has found them to be no duplicates,
    a second or two after a link is up.
    """
    addressed = {address.link for address in addresses if address.is_global}
    return [link.name for link in links if _receives(link) and link.number not in addressed]


def _receives(link: Link) -> bool:
    return link.is_up and not (link.is_loopback or link.is_port or link.kind in _SEND_ONLY)


def ipv6_usable() -> bool:
    """Whether this network namespace has IPv6: the kernel knows it, and it is not switched off everywhere."""
    # /proc/net is the main thread's namespace. /proc/sys/net is this thread's.
    if not Path("/proc/thread-self/net/if_inet6").exists():
        return False
    try:
        return Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text().strip() != "1"
    except OSError:
        return True


def may_write_rules() -> bool:
    """Whether this thread has CAP_NET_ADMIN, without which no iptables program reads or writes anything."""
    return has_capability(CAP_NET_ADMIN)


def has_capability(number: int) -> bool:
    """Whether this thread has a capability in effect."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def first_unprivileged_port() -> int:
    """From which port on anybody may bind, in this thread's network namespace."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except OSError:  # before Linux 4.11
        return 1024


@contextmanager
def _kernel_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KernelToolError(f"the kernel's routes and addresses cannot be read: {error}") from error


def _global_addresses(addresses: Iterable[Address]) -> dict[int, str]:
    """The first global address of each interface other than loopback, by interface number."""
    found: dict[int, str] = {}
    for address in addresses:
        if address.is_global and address.link != _LOOPBACK and not address.is_secondary:
            found.setdefault(address.link, address.ip)
    return found
