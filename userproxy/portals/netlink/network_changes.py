"""Changes of the node's links, addresses and routes, told by the kernel (rtnetlink(7)).

Layout and numbers: linux/rtnetlink.h, linux/if_addr.h and linux/if.h.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Final, TypeAlias

from msgspec import Struct

from userproxy.addresses import SOCKET_FAMILIES, IPFamily
from userproxy.portals import netlink
from userproxy.portals.netlink.notifications import (
    IPV4_ADDRESS,
    IPV4_ROUTE,
    IPV6_ADDRESS,
    IPV6_ROUTE,
    LINK,
    Subscription,
)
from userproxy.portals.netlink.rtnetlink import (
    ADDRESS_HEADER,
    LINK_HEADER,
    MAIN_TABLE,
    ROUTE_HEADER,
    RTA_DST,
    RTA_TABLE,
    UNICAST,
    UP,
)

_GROUPS: Final = {
    IPFamily.IPV4: (LINK, IPV4_ADDRESS, IPV4_ROUTE),
    IPFamily.IPV6: (LINK, IPV6_ADDRESS, IPV6_ROUTE),
}

_NEW_LINK: Final = 16
_DELETE_LINK: Final = 17
_ADDRESS_MESSAGES: Final = (20, 21)
_NEW_ROUTE: Final = 24
_DELETE_ROUTE: Final = 25

_NUMBER: Final = struct.Struct("=I")

_LINK_SCOPE: Final = 253

_SETTLE_SECONDS: Final = 0.05
"""An address that moves is gone for a moment."""

_PAUSE_SECONDS: Final = 0.25
"""What changes together is looked at once: a new Pod is a dozen messages."""


class Route(Struct, frozen=True):
    """A route that came or went; `type` and `table` are the kernel's numbers (RTN_UNICAST, RT_TABLE_MAIN, ...).

    `protocol` is the mark of who made it, `destination` the address as bytes, none for a default route.
    """

    table: int
    type: int
    prefix_length: int
    protocol: int = 0
    destination: bytes = b""
    is_gone: bool = False


ConcernsRoute: TypeAlias = Callable[[Route], bool]


def is_default(route: Route) -> bool:
    """Whether it is a default route, which decides what counts as the node's address."""
    return route.table == MAIN_TABLE and route.type == UNICAST and route.prefix_length == 0


class NetworkChanges:
    """What of the network may have changed: addresses of a family, links that come, go, or go up or down, and routes
    for which `concerns` is true. Link-local addresses do not count: each Pod that starts brings one.

    `missed` is called where messages were lost, so that anything may have changed.
    """

    def __init__(
        self, family: IPFamily, concerns: ConcernsRoute = is_default, missed: Callable[[], None] | None = None
    ) -> None:
        self._family = family
        self._concerns = concerns
        self._tell_missed = missed
        self._news = asyncio.Event()

    async def watch(self, differs: Callable[[], Awaitable[bool]], disturbed: Callable[[], None]) -> None:
        """Call `disturbed` soon after a change if `differs` says that it matters, until cancelled.

        `differs` is asked three times a second at most. Raises OSError where the kernel does not tell of changes.
        """
        groups = _GROUPS[self._family]
        with closing(Subscription(netlink.ROUTE, groups, self._received, self._missed)):
            self._news.set()  # something may have changed since somebody looked
            while True:
                await self._news.wait()
                await asyncio.sleep(_SETTLE_SECONDS)
                self._news.clear()
                if await differs():
                    disturbed()
                await asyncio.sleep(_PAUSE_SECONDS)

    def _missed(self) -> None:
        if self._tell_missed is not None:
            self._tell_missed()
        self._news.set()

    def _received(self, data: bytes) -> None:
        if concerns(data, self._family, self._concerns):
            self._news.set()


def concerns(data: bytes, family: IPFamily, concerns_route: ConcernsRoute) -> bool:
    """Whether one of a datagram's messages is of something that :class:`NetworkChanges` tells of."""
    number = SOCKET_FAMILIES[family]
    for kind, begin, end in netlink.messages(data):
        if kind in (_NEW_LINK, _DELETE_LINK):
            found = _link_concerns(kind, data, begin)
        elif data[begin] != number:
            continue
        elif kind in _ADDRESS_MESSAGES:
            found = ADDRESS_HEADER.unpack_from(data, begin)[3] != _LINK_SCOPE
        else:
            found = kind in (_NEW_ROUTE, _DELETE_ROUTE) and concerns_route(_route(kind, data, begin, end))
        if found:
            return True
    return False


def _link_concerns(kind: int, data: bytes, begin: int) -> bool:
    """Messages of another family than none are those of a bridge about its ports."""
    family, _, _, _, changed = LINK_HEADER.unpack_from(data, begin)
    return family == 0 and (kind == _DELETE_LINK or bool(changed & UP))


def _route(kind: int, data: bytes, begin: int, end: int) -> Route:
    _, prefix_length, _, _, table, protocol, _, type_, _ = ROUTE_HEADER.unpack_from(data, begin)
    found = netlink.attributes(data, begin + ROUTE_HEADER.size, end)
    if RTA_TABLE in found:  # one byte is too small for some numbers
        (table,) = _NUMBER.unpack_from(data, found[RTA_TABLE][0])
    destination = data[slice(*found[RTA_DST])] if RTA_DST in found else b""
    return Route(table, type_, prefix_length, protocol, destination, kind == _DELETE_ROUTE)
