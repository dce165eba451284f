"""The kernel's addresses, links and routes, as they are now in the calling thread's network namespace.

Layout and numbers: linux/rtnetlink.h, linux/if_addr.h, linux/if_link.h; rtnetlink(7). All functions block, for some ten
microseconds for each address or link, and raise OSError.
"""

import errno
import socket
import struct
from contextlib import closing, suppress
from typing import Final

from msgspec import Struct

from userproxy.addresses import SOCKET_FAMILIES, IPFamily
from userproxy.portals import netlink

_GET_LINK: Final = 18
_GET_ADDRESS: Final = 22
_GET_ROUTE: Final = 26

ADDRESS_HEADER: Final = struct.Struct("=BBBBI")  # struct ifaddrmsg
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_SECONDARY: Final = 0x01  # IFA_F_SECONDARY
_GLOBAL: Final = 0  # RT_SCOPE_UNIVERSE

LINK_HEADER: Final = struct.Struct("=BxHiII")  # struct ifinfomsg
_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MASTER: Final = 10
_IFLA_LINKINFO: Final = 18
_INFO_KIND: Final = 1  # IFLA_INFO_KIND
_INFO_SLAVE_KIND: Final = 4
_IFLA_EXT_MASK: Final = 29
_WITHOUT_STATISTICS: Final = struct.pack("=I", 1 << 3)  # RTEXT_FILTER_SKIP_STATS: they are most of what a link has
UP: Final = 0x1  # IFF_UP, linux/if.h
_LOOPBACK: Final = 0x8  # IFF_LOOPBACK

ROUTE_HEADER: Final = struct.Struct("=8BI")  # struct rtmsg
RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_PREFSRC: Final = 7
_RTA_MULTIPATH: Final = 9
RTA_TABLE: Final = 15
_RTA_VIA: Final = 18
_NEXT_HOP_LINK: Final = 4  # offset of rtnh_ifindex in struct rtnexthop
MAIN_TABLE: Final = 254  # RT_TABLE_MAIN
LOCAL_TABLE: Final = 255  # RT_TABLE_LOCAL
UNICAST: Final = 1  # RTN_UNICAST

_NUMBER: Final = struct.Struct("=I")

SOL_NETLINK: Final = 270  # linux/socket.h
STRICT_CHECK: Final = 12  # NETLINK_GET_STRICT_CHK, linux/netlink.h, since Linux 4.20

_TRIES: Final = 5
"""How often a list is asked for that changes while the kernel gives it."""


class Address(Struct, frozen=True, gc=False):
    """An address of an interface: canonical text, and the number of the link that has it.

    `is_secondary` is whether another address of the same network on the same link is older: the kernel takes that one
    as a source.
    """

    ip: str
    link: int
    is_global: bool
    is_secondary: bool


class Link(Struct, frozen=True, gc=False):
    """A network interface, by its number and its name; `kind` is the kernel's word for what it is, if it is virtual.

    `is_port` is whether another link has what it receives, as a bridge or a bond has. `hardware_address` is empty for
    links that have none.
    """

    number: int
    name: str
    is_up: bool
    is_loopback: bool
    kind: str = ""
    is_port: bool = False
    hardware_address: bytes = b""


class DefaultRoute(Struct, frozen=True, gc=False):
    """A default route of the main table. Its link is that of the first hop where there are several, 0 for none.

    `source` is the address that it prefers as one, empty for none.
    """

    link: int
    source: str


def addresses(family: IPFamily) -> list[Address]:
    """All addresses of one family, those of loopback, too, in the kernel's order."""
    request = ADDRESS_HEADER.pack(SOCKET_FAMILIES[family], 0, 0, 0, 0)
    return [_address(data, begin, end) for data, begin, end in _listed(_GET_ADDRESS, request)]


def links() -> list[Link]:
    """All network interfaces."""
    request = LINK_HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + netlink.attribute(_IFLA_EXT_MASK, _WITHOUT_STATISTICS)
    return [_link(data, begin, end) for data, begin, end in _listed(_GET_LINK, request)]


def default_routes(family: IPFamily) -> list[DefaultRoute]:
    """The default routes of one family, that of the lowest metric first."""
    found = (_default_route(*place) for place in _main_table(family))
    return [each for each in found if each is not None]


def networks(family: IPFamily) -> list[tuple[str, int]]:
    """What the main table sends out of one link: network in canonical text, and the link's number."""
    found = (_network(*place) for place in _main_table(family))
    return [each for each in found if each is not None]


def direct_networks(family: IPFamily) -> list[tuple[str, int]]:
    """What the main table sends out of one link without a gateway: network in canonical text, and the link's number."""
    found = (_network(*place) for place in _main_table(family) if not _has_gateway(*place))
    return [each for each in found if each is not None]


def _address(data: bytes, begin: int, end: int) -> Address:
    _, _, flags, scope, link = ADDRESS_HEADER.unpack_from(data, begin)
    found = netlink.attributes(data, begin + ADDRESS_HEADER.size, end)
    # Of a point-to-point link, IFA_ADDRESS is the other end.
    place = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return Address(netlink.address_text(data, *place), link, scope == _GLOBAL, bool(flags & _SECONDARY))


def _link(data: bytes, begin: int, end: int) -> Link:
    _, _, number, flags, _ = LINK_HEADER.unpack_from(data, begin)
    found = netlink.attributes(data, begin + LINK_HEADER.size, end)
    about = netlink.attributes(data, *found[_IFLA_LINKINFO]) if _IFLA_LINKINFO in found else {}
    # What a VRF's link receives is seen as that link's own first (l3mdev_ip_rcv comes after PREROUTING).
    is_port = bool(_number(data, found, _IFLA_MASTER)) and netlink.text_of(data, about, _INFO_SLAVE_KIND) != "vrf"
    name, kind = netlink.text_of(data, found, _IFLA_IFNAME), netlink.text_of(data, about, _INFO_KIND)
    hardware_address = data[slice(*found[_IFLA_ADDRESS])] if _IFLA_ADDRESS in found else b""
    return Link(number, name, bool(flags & UP), bool(flags & _LOOPBACK), kind, is_port, hardware_address)


def _default_route(data: bytes, begin: int, end: int) -> DefaultRoute | None:
    _, length, _, _, _, _, _, kind, _ = ROUTE_HEADER.unpack_from(data, begin)
    if length or kind != UNICAST:
        return None
    found = netlink.attributes(data, begin + ROUTE_HEADER.size, end)
    if _number(data, found, RTA_TABLE) != MAIN_TABLE:
        return None
    link = _number(data, found, _RTA_OIF) or _number(data, found, _RTA_MULTIPATH, _NEXT_HOP_LINK)
    return DefaultRoute(link, netlink.address_text(data, *found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else "")


def _network(data: bytes, begin: int, end: int) -> tuple[str, int] | None:
    _, length, _, _, _, _, _, kind, _ = ROUTE_HEADER.unpack_from(data, begin)
    found = netlink.attributes(data, begin + ROUTE_HEADER.size, end)
    link = _number(data, found, _RTA_OIF)
    if kind != UNICAST or not link or RTA_DST not in found or _number(data, found, RTA_TABLE) != MAIN_TABLE:
        return None
    return f"{netlink.address_text(data, *found[RTA_DST])}/{length}", link


def _has_gateway(data: bytes, begin: int, end: int) -> bool:
    found = netlink.attributes(data, begin + ROUTE_HEADER.size, end)
    return _RTA_GATEWAY in found or _RTA_VIA in found


def _number(data: bytes, found: dict[int, netlink.Place], kind: int, offset: int = 0) -> int:
    if kind not in found:
        return 0
    number: int = _NUMBER.unpack_from(data, found[kind][0] + offset)[0]
    return number


def _main_table(family: IPFamily) -> list[tuple[bytes, int, int]]:
    """The routes of the main table, as `_listed` has them; some kernels add those of other tables."""
    request = ROUTE_HEADER.pack(SOCKET_FAMILIES[family], 0, 0, 0, MAIN_TABLE, 0, 0, UNICAST, 0)
    try:
        return _listed(_GET_ROUTE, request)
    except FileNotFoundError:  # there is no main table before the first route
        return []


def _listed(kind: int, request: bytes) -> list[tuple[bytes, int, int]]:
    """The messages of a dump: datagram, begin and end. Asked again where something changed meanwhile."""
    for tries_left in reversed(range(_TRIES)):
        with closing(netlink.netlink_socket(netlink.ROUTE)) as kernel:
            with suppress(OSError):  # older kernels list what they are not asked for, too
                kernel.setsockopt(SOL_NETLINK, STRICT_CHECK, 1)
            try:
                return [(data, *place) for data, places in netlink.dump(kernel, kind, request) for place in places]
            except InterruptedError:
                if not tries_left:
                    raise
    raise OSError(errno.EINTR, "the list changed again and again")
