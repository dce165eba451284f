"""Routes that make addresses local to this node without giving them to an interface (AnyIP).

What `ip route add local ADDRESS dev lo table local proto 117` says, as netlink messages of which many go into one
system call: 10,000 take 0.2 s, where pyroute2 takes 2 s. Layout and numbers: linux/rtnetlink.h.
"""

import errno
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from userproxy.addresses import SOCKET_FAMILIES
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.netlink.protocol import (
    ACK,
    CHUNK,
    ERROR,
    REQUEST,
    ROUTE,
    Place,
    attribute,
    attributes,
    dump,
    message,
    messages,
    netlink_socket,
    raise_for_code,
)
from userproxy.portals.netlink.rtnetlink import LOCAL_TABLE, MAIN_TABLE

OURS: Final = 117
"""Which program made a route (rtm_protocol): no other is known to use this number (iproute2's rt_protos)."""

_NEW_ROUTE: Final = 24  # RTM_NEWROUTE
_DELETE_ROUTE: Final = 25  # RTM_DELROUTE
_GET_ROUTE: Final = 26  # RTM_GETROUTE
_CREATE: Final = 0x400  # NLM_F_CREATE
_REPLACE: Final = 0x100  # NLM_F_REPLACE
_EXCLUSIVE: Final = 0x200  # NLM_F_EXCL
_DESTINATION: Final = 1  # RTA_DST
_INTERFACE: Final = 4  # RTA_OIF
_LOCAL: Final = 2  # RTN_LOCAL
_HOST: Final = 254  # RT_SCOPE_HOST
_UNIVERSE: Final = 0  # RT_SCOPE_UNIVERSE; IPv6 has no other
_LOOPBACK: Final = 1
_KERNEL: Final = 2  # RTPROT_KERNEL

_ROUTE = struct.Struct("=BBBBBBBBI")
_NUMBER = struct.Struct("=I")

_AT_ONCE: Final = 100
"""Messages to a system call: the answer to each takes 0.8 KiB of a socket's 208 KiB."""


class LocalRoutes:
    """The routes of one address family that have our mark. Blocking; a thread may use it as well as another."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._bits = 32 if family is IPFamily.IPV4 else 128

    def standing(self) -> frozenset[str]:
        """The addresses that our routes make local now. Raises KernelToolError."""
        return self.standing_and_theirs()[0]

    def standing_and_theirs(self) -> tuple[frozenset[str], frozenset[str]]:
        """The addresses that our routes make local now, and those that have a route which is not ours to replace.

        Such are the kernel's own (broadcast, anycast), and those by which another program makes an address local, as
        agents of clouds do with load-balancer IPs. Raises KernelToolError.
        """
        ours: set[str] = set()
        theirs: set[str] = set()
        try:
            with netlink_socket(ROUTE) as asking:
                for data, bodies in dump(asking, _GET_ROUTE, self._header(kind=_LOCAL, bits=0)):
                    for body in bodies:
                        self._sort(data, body, ours, theirs)
        except OSError as error:
            raise _translated(error, "cannot be read") from error
        return frozenset(ours), frozenset(theirs)

    def add(self, addresses: Collection[str], *, replace: bool = False) -> None:
        """Make `addresses` local; those that are already stay so, by whichever route. Raises KernelToolError.

        With `replace` what others have made of these addresses goes.
        """
        how = _CREATE | (_REPLACE if replace else _EXCLUSIVE)
        try:
            self._perform(_NEW_ROUTE, REQUEST | ACK | how, addresses, unless=errno.EEXIST)
            if self._family is IPFamily.IPV6:
                self._forget_older_routes(addresses)
        except OSError as error:
            raise _translated(error, "cannot be added") from error

    def remove(self, addresses: Collection[str]) -> None:
        """Make `addresses` local no more, as far as they are so by a route of ours. Raises KernelToolError."""
        try:
            self._perform(_DELETE_ROUTE, REQUEST | ACK, addresses, unless=errno.ESRCH)
        except OSError as error:
            raise _translated(error, "cannot be removed") from error

    def _forget_older_routes(self, addresses: Collection[str]) -> None:
        """Have the node's sockets that are connected to `addresses` look for a route anew.

        In IPv6 each keeps the one it has until something changes in the table which that is in, the main one
        (net/ipv6/ip6_fib.c, fib6_update_sernum_upto_root()). So the same route comes there and goes.
        """
        for kind, how in ((_NEW_ROUTE, _CREATE | _EXCLUSIVE), (_DELETE_ROUTE, 0)):
            unless = errno.EEXIST if kind == _NEW_ROUTE else errno.ESRCH
            self._perform(kind, REQUEST | ACK | how, addresses, unless, MAIN_TABLE)

    def _perform(
        self, kind: int, flags: int, addresses: Collection[str], unless: int, table: int = LOCAL_TABLE
    ) -> None:
        if not addresses:
            return
        with netlink_socket(ROUTE) as asking:
            for part in _parts(sorted(addresses)):
                asking.send(b"".join(message(kind, flags, self._described(address, table)) for address in part))
                _wait_for(asking, len(part), unless)

    def _header(self, kind: int, bits: int, table: int = LOCAL_TABLE) -> bytes:
        scope = _HOST if self._family is IPFamily.IPV4 else _UNIVERSE
        return _ROUTE.pack(SOCKET_FAMILIES[self._family], bits, 0, 0, table, OURS, scope, kind, 0)

    def _described(self, address: str, table: int) -> bytes:
        destination = attribute(_DESTINATION, ip_address(address).packed)
        return self._header(_LOCAL, self._bits, table) + destination + attribute(_INTERFACE, _NUMBER.pack(_LOOPBACK))

    def _sort(self, data: bytes, body: Place, ours: set[str], theirs: set[str]) -> None:
        """Put the address that a route is about among ours or theirs, if it is among either."""
        begin, end = body
        family, bits, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(data, begin)
        if (family, bits, table) != (SOCKET_FAMILIES[self._family], self._bits, LOCAL_TABLE):
            return
        if kind != _LOCAL and protocol != _KERNEL:
            return
        place = attributes(data, begin + _ROUTE.size, end).get(_DESTINATION)
        if place is not None:
            (ours if (protocol, kind) == (OURS, _LOCAL) else theirs).add(str(ip_address(data[slice(*place)])))


def _parts(addresses: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(addresses), _AT_ONCE):
        yield addresses[begin : begin + _AT_ONCE]


def _wait_for(asking: socket.socket, answers: int, unless: int) -> None:
    """Read the kernel's answers to so many messages. Raises OSError for the first refusal other than `unless`."""
    refused: OSError | None = None
    while answers > 0:
        data = asking.recv(CHUNK)
        for kind, begin, _ in messages(data):
            if kind == ERROR:
                answers -= 1
                try:
                    raise_for_code(data, begin, unless)
                except OSError as error:
                    refused = refused or error
    if refused is not None:
        raise refused


def _translated(error: OSError, what: str) -> KernelToolError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return KernelToolError(f"routes {what}: that takes the capability CAP_NET_ADMIN")
    return KernelToolError(f"routes {what}: {error.strerror or error}")
