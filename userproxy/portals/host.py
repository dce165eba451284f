"""What this host has: its addresses, of which one leads its own processes to our listeners; IPv6; our capabilities."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import structlog

from userproxy.addresses import SOCKET_FAMILIES
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily

log = structlog.get_logger()

_MAIN_TABLE = 254  # RT_TABLE_MAIN, linux/rtnetlink.h
_UNICAST = 1  # RTN_UNICAST
_GLOBAL = 0  # RT_SCOPE_UNIVERSE
_SECONDARY = 0x01  # IFA_F_SECONDARY, linux/if_addr.h
_UP = 0x1  # IFF_UP, linux/if.h
_LOOPBACK = 0x8  # IFF_LOOPBACK
_CAP_NET_ADMIN = 12  # linux/capability.h


class HostAddress:
    """Finds the address that DNAT in OUTPUT leads to, as kube-proxy's userspace mode does.

    Blocking, and not on a running loop's thread: pyroute2's synchronous calls run a loop of their own.
    """

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
        routes, addresses, links = self._dump()
        by_link = _global_addresses(addresses, links)
        for route in routes:
            if found := route["prefsrc"] or by_link.get(route["oif"]):
                self._told = False
                return str(found)
        if not by_link:
            what = f"global {self._family} address"
            raise KernelToolError(f"no interface that is up has a {what}, so node traffic cannot be led to us")
        chosen = next(iter(by_link.values()))
        if not self._told:
            log.warning("No default route: taking the first global address as the node's", address=chosen)
            self._told = True
        return chosen

    def addresses(self) -> frozenset[str]:
        """Every address of the family that an interface has now, loopback's too. Raises KernelToolError."""
        with _kernel() as kernel:
            found = list(kernel.get_addr(family=SOCKET_FAMILIES[self._family]))
        return frozenset(str(ip_address(_own(address))) for address in found)

    def _dump(self) -> tuple[list[dict[str, Any]], list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        family = SOCKET_FAMILIES[self._family]
        with _kernel() as kernel:
            routes = kernel.route("dump", family=family, table=_MAIN_TABLE, type=_UNICAST)
            return _default_routes(routes), list(kernel.get_addr(family=family)), list(kernel.get_links())


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
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


@contextmanager
def _kernel() -> Iterator[Any]:
    # 0.1 s and 13 MB, however narrowly it is imported.
    from pyroute2.iproute.linux import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as kernel:
            yield kernel
    except (NetlinkError, OSError) as error:
        raise KernelToolError(f"the kernel's routes and addresses cannot be read: {error}") from error


def _default_routes(routes: Iterable[Any]) -> list[dict[str, Any]]:
    """Interface and preferred source of each default route. The kernel lists the lowest metric first."""
    found = []
    for route in routes:
        if route["dst_len"] or route.get_attr("RTA_TABLE") != _MAIN_TABLE:
            continue
        hops = route.get_attr("RTA_MULTIPATH") or ()
        interface = route.get_attr("RTA_OIF") or (hops[0]["oif"] if hops else None)
        found.append({"oif": interface, "prefsrc": route.get_attr("RTA_PREFSRC")})
    return found


def _global_addresses(addresses: Iterable[Any], links: Iterable[Any]) -> dict[int, str]:
    """The first global address of each interface that is up and not loopback, by interface index."""
    usable = {link["index"] for link in links if link["flags"] & _UP and not link["flags"] & _LOOPBACK}
    found: dict[int, str] = {}
    for address in addresses:
        if address["scope"] == _GLOBAL and address["index"] in usable and not address["flags"] & _SECONDARY:
            found.setdefault(address["index"], _own(address))
    return found


def _own(address: Any) -> str:
    return str(address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS"))
