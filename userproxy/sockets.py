"""A port that several sockets of ours share, and nobody else's; and listening sockets that outlive their process.

Here because `portals.claims`, `forwarding`, `telemetry` and `admin` do so, and do not know each other.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SocketType
from typing import Final

_IP_FREEBIND: Final = 15
"""linux/in.h."""

_IPV6_FREEBIND: Final = 78
"""linux/in6.h, since Linux 4.15."""

_SO_ATTACH_REUSEPORT_CBPF: Final = 51
"""asm-generic/socket.h, since Linux 4.5."""

_SO_DETACH_REUSEPORT_BPF: Final = 68
"""asm-generic/socket.h, since Linux 5.3."""

_BYTES_OF_INSTRUCTION: Final = 8

_libc = ctypes.CDLL(None, use_errno=True)

_NOBODY: Final = bytes(16)
"""A struct sockaddr of AF_UNSPEC, which Python's connect() does not make for a socket of another family."""

_FIRST: Final = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A program of classic BPF: `BPF_RET | BPF_K` with 0, the first socket (linux/filter.h)."""

_SECOND: Final = struct.pack("HBBI", 0x06, 0, 0, 1)
"""The same with 1, the second one."""


@contextmanager
def sharing_their_port(*sockets: SocketType) -> Iterator[None]:
    """Within this, SO_REUSEADDR lets each of `sockets` be bound to the port of the others, and no other program's.

    The kernel lets sockets share a port if all of them have the option at the moment of bind(2). It is taken away from
    all of them again, so that nobody else can have the port later. Some may have been closed by then.
    """
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        yield
    finally:
        for each in sockets:
            if each.fileno() >= 0:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


@contextmanager
def sharing_with_local_portals(sock: SocketType) -> Iterator[None]:
    """Within this, `sock` can be bound to a port that sockets of this user have, and :func:`share`, or had.

    Programs of this user that ask for SO_REUSEPORT can be bound to it, too, as long as `sock` is: the kernel remembers.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def share(sock: SocketType) -> None:
    """Let sockets of this user's other processes be bound to the same port, if they want it, too.

    It can be bound to any address, also to one that this node gets only later.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)


def lead_here(sock: SocketType) -> None:
    """Have all new clients of a port that is shared with one older socket come to this one. Raises OSError.

    Otherwise the kernel spreads them over both, and those whose handshake is under way when the older one closes are
    reset. Sockets of a port are numbered as they came; when the first is closed the last one takes its number, and for
    a number that there is not the kernel chooses as it did (reuseport_select_sock(), net/core/sock_reuseport.c).
    """
    steer(sock, _SECOND)


def lead_to_first(sock: SocketType) -> None:
    """Have all datagrams of a port go to the first socket of a group, whoever joins. Raises OSError."""
    steer(sock, _FIRST)


def disconnect(sock: SocketType) -> None:
    """Have a socket no peer any longer. Raises OSError.

    A TCP connection is reset (tcp_disconnect()); a UDP socket is of no interface afterwards (__udp_disconnect()).
    """
    if _libc.connect(sock.fileno(), _NOBODY, len(_NOBODY)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def steer(sock: SocketType, code: bytes) -> None:
    """Have a program of classic BPF say which socket of the group of `sock` a client's is. Raises OSError.

    EINVAL where the socket is of no group: it was bound without SO_REUSEPORT, and without :func:`prepare_group`.
    """
    memory = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // _BYTES_OF_INSTRUCTION, ctypes.addressof(memory))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


def prepare_group(sock: SocketType) -> None:
    """Make a group of a socket before bind(2), which others of ours can join later without a client going astray.

    The kernel takes a program for a socket that is bound only if it has a group already (reuseport_attach_prog()), and
    the group must have one before the second socket joins, or it spreads clients over both as it likes. The socket is
    bound without SO_REUSEPORT all the same: nobody can join before it is set again. Nothing happens where the kernel
    cannot do that; then :func:`steer` fails later.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with suppress(OSError):
        lead_to_first(sock)
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 1)  # the group stays, the program's memory goes
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


class NamedSockets:
    """Listening sockets of this process by name, and those that another process has handed to it and nobody has yet.

    Names are whatever tells them apart in both processes.
    """

    def __init__(self) -> None:
        self.ours: dict[str, socket.socket] = {}
        """Those that are in use."""
        self.are_given = False
        """Whether they are another process's by now: what belongs to them besides is to be left alone."""
        self.are_awaited = False
        """Whether another process is still to be asked for its own."""
        self._inherited: dict[str, int] = {}

    def has(self, name: str) -> bool:
        """Whether this one was inherited, and nobody has it yet."""
        return name in self._inherited

    def inherit(self, name: str, descriptor: int) -> None:
        """Have a socket of another process ready for whoever asks for it."""
        self._inherited[name] = descriptor

    def take(self, name: str) -> socket.socket | None:
        """The socket that was inherited, which is in use from now on; None if there is none."""
        descriptor = self._inherited.pop(name, None)
        if descriptor is None:
            return None
        found = socket.socket(fileno=descriptor)
        self.use(name, found)
        return found

    def use(self, name: str, listening: socket.socket) -> None:
        """Note that a socket is in use, until it is closed."""
        self.ours[name] = listening

    def open_ones(self) -> dict[str, socket.socket]:
        """Those that are in use now."""
        self.ours = {name: listening for name, listening in self.ours.items() if listening.fileno() >= 0}
        return self.ours

    def close_inherited(self) -> None:
        """Close what nobody has asked for."""
        while self._inherited:
            os.close(self._inherited.popitem()[1])
