"""The sockets of UDP: one that listens for clients, and one for each flow to an endpoint."""

import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from itertools import chain
from socket import SocketType
from typing import Final, Self

from userproxy.addresses import family_of, host_and_port, is_ipv6, socket_family
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.admission import attach
from userproxy.forwarding.udp.datagrams import IP_PKTINFO
from userproxy.model import OTHERS_PORTS, PODS_PORTS, Endpoint
from userproxy.sockets import disconnect, lead_here, prepare_group, share, sharing_their_port

_IPV6_RECVPKTINFO: Final = 49
"""linux/in6.h."""

_SO_MEMINFO: Final = 55
"""asm-generic/socket.h; its ninth number is the count of datagrams that this socket has dropped, as `ss -m` shows."""

_MEMINFO_DROPS: Final = 8

_SO_BINDTOIFINDEX: Final = 62
"""asm-generic/socket.h, since Linux 5.0."""

_NO_INTERFACE: Final = 2**31 - 1

_IP_TRANSPARENT: Final = 19
"""linux/in.h."""

_IPV6_TRANSPARENT: Final = 75
"""linux/in6.h, since Linux 2.6.37."""

_STRIDE: Final = 1009
"""From one port that is tried to the next; a prime, so that all are different."""

_PORTS_TRIED: Final = 16
"""Of a range, by chance: while a client has three quarters of them, one attempt in a hundred finds none."""

_BUFFER_BYTES: Final = 1 << 20
"""Asked of SO_RCVBUF and SO_SNDBUF of a listener, whose clients share them; the kernel cuts it to
net.core.rmem_max and wmem_max. Go and nginx leave it at 208 KiB, which is 256 small datagrams."""


class DatagramSocket(SocketType):
    """A UDP socket that listens, told of every datagram to which of the node's addresses it was sent."""

    __slots__ = ("_holder", "family_name", "host")

    def __init__(self, descriptor: int) -> None:
        """Take over a bound socket by its descriptor: with the options that :meth:`open` sets, and not connected."""
        super().__init__(fileno=descriptor)
        self.settimeout(0)
        self._holder: SocketType | None = None
        self.host: str = self.getsockname()[0]
        self.family_name = family_of(self.host)

    @classmethod
    def open(cls, host: str, port: int) -> Self:
        """One bound to `host:port`, of either family; port 0 lets the kernel pick.

        Raises PortUnavailableError where the port is taken or may not be bound.
        """
        try:
            with closing(SocketType(socket_family(host), socket.SOCK_DGRAM)) as sock:
                _set_options(sock)
                prepare_group(sock)
                sock.bind((host, port))
                return cls(sock.detach())
        except OSError as error:
            raise PortUnavailableError(f"cannot listen on UDP {host_and_port(host, port)}: {error.strerror}") from error

    @classmethod
    def open_shared(cls, host: str, port: int, instructions: bytes | None, interface: int = 0) -> Self:
        """One bound to `host:port`, beside others of the same user that have SO_REUSEPORT, too.

        With an `interface` it belongs to that, and to one group with others of it, until :meth:`appear`; without, to
        one group with the others that belong to none, and gets all that comes if there is one. `instructions` are a
        program that says whose datagrams are let in, None for everybody's. Raises OSError.
        """
        with closing(SocketType(socket_family(host), socket.SOCK_DGRAM)) as sock:
            _set_options(sock)
            share(sock)
            if instructions is not None:
                attach(sock, instructions)
            if interface:
                sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, interface)
            sock.bind((host, port))
            if not interface:
                lead_here(sock)
            return cls(sock.detach())

    def appear(self) -> None:
        """Take datagrams of all interfaces, in the same group as before. Raises OSError.

        To set SO_BINDTOIFINDEX anew would take the socket out of its group, and CAP_NET_RAW. To disconnect it, which
        it need not be connected for, makes the kernel forget the interface and nothing else (__udp_disconnect()).
        """
        disconnect(self)

    @classmethod
    def open_member(cls, host: str, port: int, members: Sequence[Self], others: Sequence[SocketType] = ()) -> Self:
        """One more of the group (SO_REUSEPORT) of `members`, the first one where there are none.

        `others` have the port, too, and are of no group. Raises OSError.
        """
        with closing(SocketType(socket_family(host), socket.SOCK_DGRAM)) as sock:
            _set_options(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for each in members:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with sharing_their_port(*members, *others, sock):
                sock.bind((host, port))
            return cls.adopt(sock.detach(), host, None)

    @classmethod
    def adopt(cls, descriptor: int, host: str, holder: int | None) -> Self:
        """That of another process, which was opened at `host`; `holder` is :attr:`holder`'s descriptor there."""
        adopted = cls(descriptor)
        adopted.host = host
        adopted.family_name = family_of(host)
        if holder is not None:
            adopted._holder = SocketType(fileno=holder)
        return adopted

    @property
    def holder(self) -> SocketType | None:
        """Another socket that has the port meanwhile, while clients are refused."""
        return self._holder

    @property
    def port(self) -> int:
        port: int = self.getsockname()[1]
        return port

    def refuse(self) -> None:
        """Have the kernel answer with ICMP port unreachable: clients find no socket here.

        A connected UDP socket takes datagrams of its peer only; the peer is this very socket, which nobody else can
        be. What has already come stays readable. But it has one address now, and others of the node would be free for
        any program, so another socket holds the port: one more descriptor. Raises OSError.
        """
        if self._holder is None:
            self._holder = holder_of([self])
        self.take_only_its_own()

    def take_only_its_own(self) -> None:
        """The part of :meth:`refuse` that is for the socket itself. Raises OSError."""
        host = self.host
        if ipaddress.ip_address(host).is_unspecified:
            host = "::1" if is_ipv6(host) else "127.0.0.1"
        self.connect((host, self.port))

    def admit(self) -> None:
        """Take datagrams of everybody again, with what is another socket to the kernel: it must be watched anew.

        Disconnecting would not do, because over IPv6 the kernel keeps the peer's address (Linux 6.x, udp_disconnect).
        Raises OSError, and then refuses on.
        """
        with closing(SocketType(self.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as fresh:
            _set_options(fresh)
            prepare_group(fresh)
            with sharing_their_port(self, fresh, *([self._holder] if self._holder is not None else [])):
                fresh.bind((self.host, self.port))
                os.dup2(fresh.fileno(), self.fileno(), inheritable=False)
                self._let_go()  # while it shares the port: a program that is just being started may have a copy

    def close(self) -> None:
        self._let_go()
        super().close()

    def _let_go(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.close()


def stand_aside(sockets: Iterable[SocketType]) -> None:
    """Have datagrams come to the sockets of another process at portals of IPv6, of which the oldest has them else.

    Over IPv4 the newest has them already. Those that cannot do so have them until they are closed.
    """
    for each in sockets:
        if isinstance(each, DatagramSocket) and is_ipv6(each.host):
            with suppress(OSError):
                each.take_only_its_own()


def holder_of(sockets: Sequence[DatagramSocket], *others: SocketType) -> SocketType | None:
    """A socket that keeps other programs from the port of `sockets`, and that nothing reaches.

    `others` have the port, too. None if the kernel cannot do that.
    """
    first = sockets[0]
    try:
        holder = SocketType(first.family, socket.SOCK_DGRAM)
    except OSError:
        return None
    host = first.host
    try:
        if first.family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            host = "::"  # an address of the node is not one of an interface that there is not (inet6_bind())
        holder.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
        with sharing_their_port(*sockets, *others, holder):
            holder.bind((host, first.port))
    except OSError:
        holder.close()
        return None
    return holder


def is_holder(sock: SocketType) -> bool:
    """Whether a socket of another process is what :func:`holder_of` made there."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX) == _NO_INTERFACE
    except OSError:  # a kernel that does not know this can have none
        return False


def _set_options(sock: SocketType) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)


def connect_to(endpoint: Endpoint) -> SocketType:
    """A non-blocking socket that exchanges datagrams with `endpoint` alone. Raises OSError."""
    sock = SocketType(socket_family(endpoint.ip), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect((endpoint.ip, endpoint.port))
    except BaseException:
        sock.close()
        raise
    return sock


def connect_from(client: str, endpoint: Endpoint, *, is_pod_here: bool) -> SocketType:
    """As :func:`connect_to`, from a client's address, which this node need not have, and a port of OWN_PORTS.

    Not from the client's own port: a client that also writes to the endpoint itself, from that very port, would have
    its answers taken, and a port that a Pod chose would be kept from the node's own services as long as it likes. For
    a client from elsewhere, which may be many behind one address, the kernel chooses where these are used up.

    Raises OSError: EADDRINUSE where no port is left, EPERM without CAP_NET_ADMIN, and others where the address cannot
    be anybody's.
    """
    family = socket_family(client)
    sock = SocketType(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        _bind_to_own_port(sock, client, is_pod_here=is_pod_here)
        sock.connect((endpoint.ip, endpoint.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_to_own_port(sock: SocketType, host: str, *, is_pod_here: bool) -> None:
    """The kernel would choose from within net.ipv4.ip_local_port_range alone.

    Whoever can guess the port can answer in the endpoint's name, so it is not predictable.
    """
    first, last = PODS_PORTS if is_pod_here else OTHERS_PORTS
    count = last - first + 1
    start = int.from_bytes(os.urandom(4), sys.byteorder)
    tries = range(start, start + _PORTS_TRIED * _STRIDE, _STRIDE)
    for port in chain((first + number % count for number in tries), () if is_pod_here else (0,)):
        try:
            sock.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def dropped(sock: SocketType) -> int:
    """Datagrams that the kernel has dropped at this socket for want of buffer, or because they were damaged.

    0 where the kernel cannot tell: Linux can from 4.12 on, kernels that imitate it may not.
    """
    try:
        numbers = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
    except OSError:
        return 0
    return int.from_bytes(numbers[4 * _MEMINFO_DROPS :], sys.byteorder)
