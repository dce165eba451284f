"""The kernel's lists of sockets: on which ports of this node programs listen, and whose a Unix socket is.

Nothing is connected to or bound to find that out. Layout and numbers: linux/sock_diag.h, linux/inet_diag.h and
linux/unix_diag.h; sock_diag(7).
"""

import errno
import socket
import struct
from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from userproxy.addresses import socket_family
from userproxy.model import Endpoint, IPFamily, Protocol
from userproxy.portals import netlink

SocketAddress = tuple[str, Protocol, int]
"""Address, protocol, port."""

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG, linux/netlink.h
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_V6ONLY = 11  # INET_DIAG_SKV6ONLY
_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2, up to its struct inet_diag_sockid
_PORTS = struct.Struct(">HH")
_SOCKET_ID = 48
_ANSWER = struct.Struct(">4xH2x16s16x12x")  # the parts of struct inet_diag_msg that matter, up to its last five numbers
_CONNECTION = struct.Struct(">4xHH16s16s")
_INODE = struct.Struct("=16xI")
_USER_AND_INODE: Final = struct.Struct("=B62xII")  # struct inet_diag_msg from its state on
_LISTEN: Final = 10  # TCP_LISTEN

_NO_INTERFACE_AND_COOKIE: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # INET_DIAG_NOCOOKIE

_LISTENING = {
    Protocol.TCP: (socket.IPPROTO_TCP, 1 << 10),  # TCP_LISTEN, net/tcp_states.h
    Protocol.UDP: (socket.IPPROTO_UDP, 1 << 7),  # TCP_CLOSE, in which UDP sockets are that are not connected
}
_CONNECTED: Final = sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 11, 12))
"""All states of net/tcp_states.h but TIME_WAIT, CLOSE and LISTEN."""

_FAMILIES = {IPFamily.IPV4: (socket.AF_INET, socket.AF_INET6), IPFamily.IPV6: (socket.AF_INET6,)}
"""Whose sockets get packets of a family: one of IPv6 may get those of IPv4, too."""
_MAPPED = bytes(10) + b"\xff\xff"

_SHOW_UID: Final = 0x40  # UDIAG_SHOW_UID, linux/unix_diag.h, since Linux 5.3
_UID_ATTRIBUTE: Final = 7  # UNIX_DIAG_UID
_UNCONNECTED: Final = "01"  # SS_UNCONNECTED, linux/net.h, which a listening socket is
_ANY: Final = 0xFFFFFFFF

_UNIX_REQUEST: Final = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_UNIX_ANSWER_BYTES: Final = 16  # struct unix_diag_msg
_UID: Final = struct.Struct("=I")

_ONE_BY_ONE = 16
"""Up to so many ports are asked for one by one; beyond, all sockets are listed once: ours alone are thousands."""


def listened_on(
    family: IPFamily, addresses: Collection[SocketAddress], own: AbstractSet[int] = frozenset()
) -> frozenset[SocketAddress]:
    """Those of `addresses` on which a program of this network namespace listens, by itself or on every address.

    For UDP that is any socket without a peer. Sockets whose inodes are in `own` do not count. Raises OSError where the
    kernel does not tell.
    """
    found: set[SocketAddress] = set()
    with closing(netlink.netlink_socket(_SOCK_DIAG)) as kernel:
        for protocol in _LISTENING:
            wanted: dict[int, dict[bytes, SocketAddress]] = {}
            for each in addresses:
                if each[1] == protocol:
                    wanted.setdefault(each[2], {})[_packed(each[0])] = each
            for address, port, inode in _sockets(kernel, family, protocol, wanted.keys()):
                heard = {} if inode in own else wanted[port]
                found.update([heard[address]] if address in heard else () if any(address) else heard.values())
    return frozenset(found)


class Connection(NamedTuple):
    """A TCP connection as the socket of one end has it; the `peer` is the other end."""

    address: str
    port: int
    peer: str
    peer_port: int


def connections(family: IPFamily) -> Iterator[Connection]:
    """The TCP connections of this network namespace, half-open ones included; those within it once for each end.

    Raises OSError where the kernel does not tell.
    """
    size = 4 if family is IPFamily.IPV4 else 16
    with closing(netlink.netlink_socket(_SOCK_DIAG)) as kernel:
        for kind in _FAMILIES[family]:
            request = _REQUEST.pack(kind, socket.IPPROTO_TCP, 0, _CONNECTED) + bytes(_SOCKET_ID)
            for data, bodies in netlink.dump(kernel, _BY_FAMILY, request):
                for begin, _ in bodies:
                    port, peer_port, ours, theirs = _CONNECTION.unpack_from(data, begin)
                    ends = [
                        each[:4] if kind == socket.AF_INET else each.removeprefix(_MAPPED) for each in (ours, theirs)
                    ]
                    if len(ends[0]) == size:
                        yield Connection(str(ip_address(ends[0])), port, str(ip_address(ends[1])), peer_port)


def user_of_connection(address: Endpoint, peer: Endpoint) -> int | None:
    """The user who has the TCP socket at `address` that is connected to `peer`. Both are IPv4 addresses.

    None where there is no such socket in this network namespace, or nobody has it any more: the kernel then says that
    it is root's. Raises OSError where the kernel does not tell.
    """
    ends = _PORTS.pack(address.port, peer.port) + _packed(address.ip).ljust(16, b"\0")
    place = ends + _packed(peer.ip).ljust(16, b"\0") + _NO_INTERFACE_AND_COOKIE
    request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, _CONNECTED) + place
    with closing(netlink.netlink_socket(_SOCK_DIAG)) as kernel:
        kernel.send(netlink.message(_BY_FAMILY, netlink.REQUEST, request))
        data = kernel.recv(netlink.CHUNK)
    for kind, begin, _ in netlink.messages(data):
        if kind == _BY_FAMILY:
            state, user, inode = _USER_AND_INODE.unpack_from(data, begin + 1)
            return user if inode and state != _LISTEN else None
    return None


def wildcard_sockets(
    family: IPFamily, ports: Collection[tuple[Protocol, int]] | None = None
) -> dict[tuple[Protocol, int], set[int]]:
    """The inodes of the sockets that hear every address of `family`, by port; all ports if `ports` is None.

    For UDP those without a peer. Raises OSError where the kernel does not tell.
    """
    found: dict[tuple[Protocol, int], set[int]] = {}
    with closing(netlink.netlink_socket(_SOCK_DIAG)) as kernel:
        for protocol in _LISTENING:
            asked = None if ports is None else {port for each, port in ports if each is protocol}
            for address, port, inode in _sockets(kernel, family, protocol, asked):
                if not any(address):
                    found.setdefault((protocol, port), set()).add(inode)
    return found


def listening(family: IPFamily, protocol: Protocol, port: int) -> list[tuple[str, int]]:
    """Address, unspecified for every one, and inode of each socket that hears `family` at a port.

    For UDP those without a peer. Raises OSError where the kernel does not tell.
    """
    with closing(netlink.netlink_socket(_SOCK_DIAG)) as kernel:
        return [(str(ip_address(address)), inode) for address, _, inode in _sockets(kernel, family, protocol, {port})]


def ports_listened_on(family: IPFamily, ports: Collection[tuple[Protocol, int]]) -> frozenset[tuple[Protocol, int]]:
    """Those of `ports` on which a program listens at any address; for UDP any socket without a peer. Raises OSError."""
    with closing(netlink.netlink_socket(_SOCK_DIAG)) as kernel:
        return frozenset(
            (protocol, port)
            for protocol in _LISTENING
            for _, port, _ in _sockets(kernel, family, protocol, {port for each, port in ports if each is protocol})
        )


def _sockets(
    kernel: socket.socket, family: IPFamily, protocol: Protocol, ports: AbstractSet[int] | None
) -> Iterator[tuple[bytes, int, int]]:
    """Address, zero for every one, port and inode of each listening socket with one of these ports, or with any."""
    number, states = _LISTENING[protocol]
    for kind in _FAMILIES[family] if ports is None or ports else ():
        for asked in sorted(ports) if ports is not None and len(ports) <= _ONE_BY_ONE else (0,):
            place = _PORTS.pack(asked, 0) + bytes(_SOCKET_ID - _PORTS.size)
            for data, bodies in netlink.dump(kernel, _BY_FAMILY, _REQUEST.pack(kind, number, 0, states) + place):
                for begin, end in bodies:
                    port, address = _ANSWER.unpack_from(data, begin)
                    if ports is None or port in ports:
                        rest = begin + _ANSWER.size + _INODE.size
                        heard = _heard(family, kind, address, netlink.attributes(data, rest, end), data)
                        if heard is not None:
                            yield heard, port, _INODE.unpack_from(data, begin + _ANSWER.size)[0]


def _heard(family: IPFamily, kind: int, address: bytes, extra: dict[int, netlink.Place], data: bytes) -> bytes | None:
    """The address of `family` whose packets a socket gets; None if it gets none of that family."""
    if kind == socket.AF_INET:
        return address[:4]
    if family is IPFamily.IPV6:
        return address
    if address.startswith(_MAPPED):
        return address[len(_MAPPED) :]
    v6only = _V6ONLY in extra and any(data[slice(*extra[_V6ONLY])])
    return None if any(address) or v6only else bytes(4)


def _packed(ip: str) -> bytes:
    return socket.inet_pton(socket_family(ip), ip)


def why_not(error: OSError) -> str:
    """Why the kernel did not tell, in words for the log."""
    missing = " (it takes the kernel's inet_diag, tcp_diag and udp_diag)" if error.errno == errno.ENOENT else ""
    return f"{error.strerror or error}{missing}"


def user_of(name: str) -> int | None:
    """The user who made the socket that is bound to the abstract `name` in this thread's network namespace.

    None where there is no such socket, or the kernel does not tell.
    """
    try:
        inode = inode_of(name)
        if inode is None:
            return None
        request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, _ANY, inode, _SHOW_UID, _ANY, _ANY)
        with netlink.netlink_socket(_SOCK_DIAG) as asking:
            asking.send(netlink.message(_BY_FAMILY, netlink.REQUEST, request))
            data = asking.recv(netlink.CHUNK)
    except OSError:
        return None
    for kind, begin, end in netlink.messages(data):
        place = (
            netlink.attributes(data, begin + _UNIX_ANSWER_BYTES, end).get(_UID_ATTRIBUTE)
            if kind == _BY_FAMILY
            else None
        )
        if place is not None:
            user: int = _UID.unpack_from(data, place[0])[0]
            return user
    return None


def inode_of(name: str) -> int | None:
    """The inode of the socket that is bound to the abstract `name` in this thread's network namespace, if any."""
    # /proc/net is the main thread's namespace.
    for line in Path("/proc/thread-self/net/unix").read_text(errors="replace").splitlines():
        fields = line.split()
        if fields[-1] == f"@{name}" and fields[5] == _UNCONNECTED:  # who is connected to it has its name, too
            return int(fields[6])
    return None
