"""Datagrams in batches: recvmmsg(2) and sendmmsg(2) on prepared buffers.

Python's recvmsg() and sendmsg() build and take apart addresses and ancillary data for every datagram, and a socket
that is read until it is empty ends in an exception each time. Here the kernel reads and writes structures that are
laid out once, one call brings all that waits (fewer datagrams than asked for: there are no more), and a client is
recognised by bytes that are compared and never parsed.
"""

import ctypes
import ipaddress
import mmap
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from userproxy.model import IPFamily

IP_PKTINFO: Final = 8
"""linux/in.h; Python's socket module has it from 3.14 on."""

IPV6_PKTINFO: Final = 50
"""linux/in6.h."""

LARGEST: Final = 65_535
"""No datagram is longer: 65,507 bytes over IPv4, 65,527 over IPv6."""

BATCH: Final = 32
"""Clients' datagrams that one call takes in at most."""

OUTBOX: Final = 64
"""Answers that are sent together at most."""

COLLECTED: Final = 8
"""Answers that one call takes in at most; fewer came if it takes fewer."""

_LAST: Final = OUTBOX - COLLECTED

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
a call. Callers pass pointers as c_void_p."""

receive_batch = _libc.recvmmsg
"""recvmmsg(descriptor, headers, count, flags, None): how many came, or -1 with :func:`last_error`."""

last_error = ctypes.get_errno
"""errno of the last call of this module that returned -1."""


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


def address_written_to(addressee: bytes, family: IPFamily) -> str:
    """The node's address that a client has written to, from what :meth:`Inbox.addressee` says of it."""
    header = ctypes.sizeof(_ControlHeader)
    if family is IPFamily.IPV6:
        start = _Layout(family).control + header
        return socket.inet_ntop(socket.AF_INET6, addressee[start : start + 16])
    return socket.inet_ntop(socket.AF_INET, addressee[header + 4 : header + 8])


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
        self.address_offsets = range(names, names + count * layout.size, layout.size)
        self.starts = range(data, data + count * _SLOT, _SLOT)
        for i in range(2 * count):
            vector = vectors + i * ctypes.sizeof(_Iovec)
            iovec = _Iovec.from_address(base + vector)
            iovec.base, iovec.length = base + self.starts[i % count], LARGEST
            header = _BatchMessage.from_address(base + i * stride).header
            header.iov, header.iov_length = base + vector, 1
            if named or i >= count:
                start = base + self.address_offsets[i % count]
                header.name, header.name_length = start + layout.name, layout.name_length
                header.control, header.control_length = start + layout.control, layout.control_length
        self.view = memoryview(self.memory)
        self.sizes = self.view[:vectors].cast("I")[_BatchMessage.length.offset // 4 :: stride // 4][:count]
        self.outgoing_sizes = self.view[vectors:names].cast("L")[1::2][count:]  # size_t

    def header(self, number: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._base + number * self.stride)


class Inbox:
    """Room for one batch of clients' datagrams. All listeners of a family share one: it counts until the next call.

    ``headers`` is what to give to :data:`receive_batch`, for up to BATCH datagrams. ``clients`` has for each datagram
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
            slice(offset + layout.client.start, offset + layout.client.stop) for offset in area.address_offsets
        ]

    def datagram(self, number: int) -> tuple[bytes, bytes]:
        """A datagram as :meth:`put` takes it: who sent it to which address, and what."""
        offset, start = self._area.address_offsets[number], self.starts[number]
        memory = self.memory
        return memory[offset : offset + self._layout.size], memory[start : start + self.sizes[number]]

    def put(self, addresses: bytes, payload: bytes) -> None:
        """Have a datagram that was taken out stand here as the first."""
        offset, start = self._area.address_offsets[0], self.starts[0]
        self.memory[offset : offset + self._layout.size] = addresses
        self.memory[start : start + len(payload)] = payload
        self.sizes[0] = len(payload)

    def addressee(self, number: int) -> bytes:
        """How :class:`Outbox` addresses the client of a datagram, with the address that it wrote to as the source."""
        layout = self._layout
        offset = self._area.address_offsets[number]
        raw = bytearray(self.memory[offset : offset + layout.size])
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

    def address(self, number: int) -> tuple[str, int]:
        """The IP address of the client of a datagram, as text, and its port."""
        start = self._area.address_offsets[number] + self._layout.name
        port = int.from_bytes(self.memory[start + 2 : start + 4], "big")
        if self._family is IPFamily.IPV6:
            return socket.inet_ntop(socket.AF_INET6, self.memory[start + 8 : start + 24]), port
        return socket.inet_ntop(socket.AF_INET, self.memory[start + 4 : start + 8]), port


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
        self._addressees = [slice(offset, offset + area.layout.size) for offset in area.address_offsets]
        self._slots = [area.view[start : start + LARGEST] for start in area.starts]
        self._count = 0
        self.collected = 0
        self._sender: Sender | None = None

    def collect(self, sender: "Sender", descriptor: int, addressee: bytes) -> int:
        """Take in what an endpoint has answered, up to COLLECTED datagrams, as answers to a client of `sender`.

        Returns how many it was, or -1 with :func:`last_error`; `collected` are their bytes.
        """
        if sender is not self._sender or self._count > _LAST:
            self._start(sender)
        index = self._count
        count: int = receive_batch(descriptor, self._incoming[index], COLLECTED, 0, None)
        if count == 1:
            self._memory[self._addressees[index]] = addressee
            self._outgoing_sizes[index] = self.collected = self._sizes[index]
            self._count = index + 1
        elif count > 1:
            self.collected = 0
            for number in range(index, index + count):
                self._memory[self._addressees[number]] = addressee
                self._outgoing_sizes[number] = size = self._sizes[number]
                self.collected += size
            self._count = index + count
        return count

    def collect_one(self, sender: "Sender", receive_into: Callable[[memoryview], int], addressee: bytes) -> int:
        """Take in one answer with recv_into() of an endpoint's socket, which costs less than a batch of one.

        Returns its size. Raises OSError as recv_into() does.
        """
        if sender is not self._sender or self._count > _LAST:
            self._start(sender)
        index = self._count
        self._outgoing_sizes[index] = size = receive_into(self._slots[index])
        self._memory[self._addressees[index]] = addressee
        self._count = index + 1
        return size

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
        """Send answers one by one, because a batch was refused: others of it may still be sent."""
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
