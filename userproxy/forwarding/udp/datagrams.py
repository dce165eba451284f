"""Datagrams in batches: the socket that clients write to, and recvmmsg(2) and sendmmsg(2) on prepared buffers.

Python's recvmsg() and sendmsg() build and take apart addresses and ancillary data for every datagram, and a socket
that is read until it is empty ends in an exception each time. Here the kernel reads and writes structures that are
laid out once, one call brings all that waits (fewer datagrams than asked for: there are no more), and a client is
recognised by bytes that are compared and never parsed.
"""

import ctypes
import ipaddress
import mmap
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from socket import SocketType
from typing import Final, Protocol

from userproxy.addresses import family_of, host_and_port, is_ipv6, socket_family
from userproxy.errors import PortUnavailableError
from userproxy.model import Endpoint, IPFamily

IP_PKTINFO: Final = 8
"""linux/in.h; Python's socket module has it from 3.14 on."""

IPV6_RECVPKTINFO: Final = 49
"""linux/in6.h."""

IPV6_PKTINFO: Final = 50
"""linux/in6.h."""

SO_MEMINFO: Final = 55
"""asm-generic/socket.h; its ninth number is the count of datagrams that this socket has dropped, as `ss -m` shows."""

_SO_BINDTOIFINDEX: Final = 62
"""asm-generic/socket.h, since Linux 5.0."""

_NO_INTERFACE: Final = 2**31 - 1

LARGEST: Final = 65_535
"""No datagram is longer: 65,507 bytes over IPv4, 65,527 over IPv6."""

BATCH: Final = 32
"""Clients' datagrams that one call takes in at most."""

OUTBOX: Final = 64
"""Answers that are sent together at most."""

COLLECTED: Final = 8
"""Answers that one call takes in at most; fewer came if it takes fewer."""

_LAST: Final = OUTBOX - COLLECTED

_BUFFER_BYTES: Final = 1 << 20
"""Asked of SO_RCVBUF and SO_SNDBUF of a listener, whose clients share them; the kernel cuts it to
net.core.rmem_max and wmem_max. Go and nginx leave it at 208 KiB, which is 256 small datagrams."""

_MEMINFO_DROPS: Final = 8
_SLOT: Final = 65_536


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _BatchMessage(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Message), ("length", ctypes.c_uint))


class _ControlHeader(ctypes.Structure):
    """struct cmsghdr."""

    _fields_ = (("length", ctypes.c_size_t), ("level", ctypes.c_int), ("kind", ctypes.c_int))


_libc = ctypes.PyDLL(None, use_errno=True)
"""Without letting go of the interpreter's lock, since no call here waits; and no `argtypes`, whose checks cost 0.4 us
a call. Whoever calls passes pointers as c_void_p."""

receive_batch = _libc.recvmmsg
"""recvmmsg(descriptor, headers, count, flags, None): how many came, or -1 with :func:`last_error`."""

last_error = ctypes.get_errno
"""errno of the last call of this module that returned -1."""


class DatagramSocket(SocketType):
    """A UDP socket that listens, told of every datagram to which of the node's addresses it was sent."""

    __slots__ = ("_holder", "family_name", "host")

    def __init__(self, host: str, port: int) -> None:
        """Bind `host:port`, of either family, non-blocking; port 0 lets the kernel pick.

        Raises PortUnavailableError where the port is taken or may not be bound.
        """
        self._holder: SocketType | None = None
        self.family_name = family_of(host)
        try:
            super().__init__(socket_family(host), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            _set_options(self)
            self.bind((host, port))
        except OSError as error:
            self.close()
            raise PortUnavailableError(f"cannot listen on UDP {host_and_port(host, port)}: {error.strerror}") from error
        self.host = host

    @property
    def port(self) -> int:
        port: int = self.getsockname()[1]
        return port

    def refuse(self) -> None:
        """Have the kernel answer with ICMP port unreachable: whoever writes here now finds no socket.

        A connected UDP socket takes datagrams of its peer only; the peer is this very socket, which nobody else can
        be. What has already come stays readable. But it has one address now, and others of the node would be free for
        any program, so another socket holds the port: one more descriptor. Raises OSError.
        """
        if self._holder is None:
            self._holder = self._hold()
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
            with _sharing(self, fresh, *([self._holder] if self._holder is not None else [])):
                fresh.bind((self.host, self.port))
                os.dup2(fresh.fileno(), self.fileno(), inheritable=False)
                self._let_go()  # while it shares the port: a program that is just being started may have a copy

    def close(self) -> None:
        self._let_go()
        super().close()

    def _hold(self) -> SocketType | None:
        """A socket that keeps others from the port and that nothing reaches; None if the kernel cannot do that."""
        try:
            holder = SocketType(self.family, socket.SOCK_DGRAM)
        except OSError:
            return None
        try:
            if self.family == socket.AF_INET6:
                holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            holder.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
            with _sharing(self, holder):
                holder.bind((self.host, self.port))
        except OSError:
            holder.close()
            return None
        return holder

    def _let_go(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.close()


@contextmanager
def _sharing(*sockets: SocketType) -> Iterator[None]:
    """SO_REUSEADDR lets UDP sockets have one port, but only while all of them ask for it. Some may be closed here."""
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        yield
    finally:
        for each in sockets:
            if each.fileno() >= 0:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _set_options(sock: SocketType) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)


class _Layout:
    """Where the kernel puts, and expects, a client's address and the local address that it wrote to.

    ``client`` is what tells a client from others, one stretch of bytes: its address, port and scope, and the local
    address; not the interface, by which the client's next datagram may well not come.
    """

    def __init__(self, family: IPFamily) -> None:
        header = ctypes.sizeof(_ControlHeader)
        if family is IPFamily.IPV6:
            # sockaddr_in6, then a header, then struct in6_pktinfo: address (16), interface (4).
            self.name, self.name_length = 4, 28
            self.control, self.control_length = 32, header + 24
            self.client = slice(4, 32 + header + 16)
        else:
            # A header, then struct in_pktinfo: interface (4), local address (4), destination (4); then sockaddr_in.
            self.control, self.control_length = 0, header + 16
            self.name, self.name_length = header + 16, 16
            self.client = slice(header + 4, header + 16 + 8)
        self.size = 80


class _Area:
    """Memory that the kernel reads and writes by a number of message headers, all laid out once."""

    def __init__(self, family: IPFamily, count: int, *, named: bool) -> None:
        """Room for `count` datagrams, with a header each; `named`, with addresses and ancillary data, too."""
        self.layout = layout = _Layout(family)
        self.stride = stride = ctypes.sizeof(_BatchMessage)
        vectors = 2 * count * stride
        names = vectors + 2 * count * ctypes.sizeof(_Iovec)
        data = -(-(names + count * layout.size) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, data + count * _SLOT)
        self._anchor = ctypes.c_char.from_buffer(self.memory)
        self._base = base = ctypes.addressof(self._anchor)
        self.places = range(names, names + count * layout.size, layout.size)
        self.starts = range(data, data + count * _SLOT, _SLOT)
        for i in range(2 * count):
            vector = vectors + i * ctypes.sizeof(_Iovec)
            iovec = _Iovec.from_address(base + vector)
            iovec.base, iovec.length = base + self.starts[i % count], LARGEST
            header = _BatchMessage.from_address(base + i * stride).header
            header.iov, header.iov_length = base + vector, 1
            if named or i >= count:
                place = base + self.places[i % count]
                header.name, header.name_length = place + layout.name, layout.name_length
                header.control, header.control_length = place + layout.control, layout.control_length
        self.view = memoryview(self.memory)
        self.sizes = self.view[:vectors].cast("I")[_BatchMessage.length.offset // 4 :: stride // 4][:count]
        self.outgoing_sizes = self.view[vectors:names].cast("L")[1::2][count:]  # size_t

    def header(self, number: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._base + number * self.stride)


class Inbox:
    """Room for one batch of clients' datagrams. All listeners of a family share one: it counts until the next call.

    ``headers`` is what to give to :data:`receive_batch`, for up to BATCH datagrams. ``clients`` has for each place
    where in ``memory`` the bytes are that tell clients apart, ``starts`` where the datagram begins, and ``sizes``
    how long it is.
    """

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._area = area = _Area(family, BATCH, named=True)
        self._layout = layout = area.layout
        self.memory = area.memory
        self.view = area.view
        self.headers = area.header(0)
        self.starts = area.starts
        self.sizes = area.sizes
        self.clients: Sequence[slice] = [
            slice(place + layout.client.start, place + layout.client.stop) for place in area.places
        ]

    def addressee(self, number: int) -> bytes:
        """How :class:`Outbox` addresses the client of a datagram, with the address that it wrote to as the source."""
        layout = self._layout
        place = self._area.places[number]
        raw = bytearray(self.memory[place : place + layout.size])
        header = ctypes.sizeof(_ControlHeader)
        if self._family is IPFamily.IPV6:
            start = layout.control
            raw[start : start + header] = bytes(_ControlHeader(header + 20, socket.IPPROTO_IPV6, IPV6_PKTINFO))
            local = ipaddress.IPv6Address(bytes(raw[start + header : start + header + 16]))
            if not local.is_link_local:  # the route decides, except where the address means nothing without a link
                raw[start + header + 16 : start + header + 20] = bytes(4)
        else:
            raw[:header] = bytes(_ControlHeader(header + 12, socket.IPPROTO_IP, IP_PKTINFO))
            raw[header : header + 4] = bytes(4)
            raw[header + 8 : header + 12] = bytes(4)
        return bytes(raw)

    def address(self, number: int) -> str:
        """The IP address of the client of a datagram, as text."""
        start = self._area.places[number] + self._layout.name
        if self._family is IPFamily.IPV6:
            return socket.inet_ntop(socket.AF_INET6, self.memory[start + 8 : start + 24])
        return socket.inet_ntop(socket.AF_INET, self.memory[start + 4 : start + 8])


class Outbox:
    """Answers on their way to the clients of one listener, sent together: one call where each would cost one.

    All listeners of a family share one.
    """

    def __init__(self, family: IPFamily) -> None:
        area = _Area(family, OUTBOX, named=False)
        self._area = area
        self._memory = area.memory
        self._sizes = area.sizes
        self._outgoing_sizes = area.outgoing_sizes
        self._incoming = [area.header(i) for i in range(OUTBOX)]
        self._outgoing = [area.header(OUTBOX + i) for i in range(OUTBOX)]
        self._addressees = [slice(place, place + area.layout.size) for place in area.places]
        self._slots = [area.view[start : start + LARGEST] for start in area.starts]
        self._count = 0
        self._sender: Sender | None = None

    def collect(self, sender: "Sender", descriptor: int, addressee: bytes) -> int:
        """Take in what an endpoint has answered, up to COLLECTED datagrams, as answers to a client of `sender`.

        Returns how many it was, or -1 with :func:`last_error`.
        """
        if sender is not self._sender or self._count > _LAST:
            self._start(sender)
        place = self._count
        count: int = receive_batch(descriptor, self._incoming[place], COLLECTED, 0, None)
        if count == 1:
            self._memory[self._addressees[place]] = addressee
            self._outgoing_sizes[place] = self._sizes[place]
            self._count = place + 1
        elif count > 1:
            for number in range(place, place + count):
                self._memory[self._addressees[number]] = addressee
                self._outgoing_sizes[number] = self._sizes[number]
            self._count = place + count
        return count

    def collect_one(self, sender: "Sender", receive_into: Callable[[memoryview], int], addressee: bytes) -> None:
        """Take in one answer with recv_into() of an endpoint's socket, which costs less than a batch of one.

        Raises OSError as that does.
        """
        if sender is not self._sender or self._count > _LAST:
            self._start(sender)
        place = self._count
        self._outgoing_sizes[place] = receive_into(self._slots[place])
        self._memory[self._addressees[place]] = addressee
        self._count = place + 1

    def flush(self) -> None:
        """Send what has been collected."""
        count, self._count = self._count, 0
        sender, self._sender = self._sender, None
        if not count or sender is None:
            return
        total = sum(self._outgoing_sizes[:count].tolist())
        sent = _libc.sendmmsg(sender.descriptor, self._outgoing[0], count, 0)
        if sent < count:
            sent, total = self._send_singly(sender.descriptor, max(sent, 0), count, total)
        sender.sent(sent, total, count - sent)

    def _start(self, sender: "Sender") -> None:
        self.flush()
        self._sender = sender

    def _send_singly(self, descriptor: int, done: int, count: int, total: int) -> tuple[int, int]:
        """One cannot be sent: the others can, perhaps."""
        sent = done
        for number in range(done, count):
            if _libc.sendmmsg(descriptor, self._outgoing[number], 1, 0) == 1:
                sent += 1
            else:
                total -= self._outgoing_sizes[number]
        return sent, total


class Sender(Protocol):
    """A listener, as its outbox sees it."""

    descriptor: int

    def sent(self, count: int, size: int, refused: int) -> None:
        """Datagrams and bytes that went to clients, and datagrams that the kernel did not take."""


def start_flow(endpoint: Endpoint) -> SocketType:
    """A non-blocking socket that exchanges datagrams with `endpoint` alone. Raises OSError."""
    sock = SocketType(socket_family(endpoint.ip), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect((endpoint.ip, endpoint.port))
    except BaseException:
        sock.close()
        raise
    return sock


def dropped(sock: SocketType) -> int:
    """Datagrams that the kernel has dropped at this socket for want of buffer, or because they were damaged.

    0 where the kernel cannot tell: Linux can from 4.12 on, others that play Linux need not.
    """
    try:
        numbers = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
    except OSError:
        return 0
    return int.from_bytes(numbers[4 * _MEMINFO_DROPS :], sys.byteorder)
