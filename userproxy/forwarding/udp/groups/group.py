"""The sockets of a UDP listener as the process has them that opens and holds them: one, or one for each data process.

Sockets of a group (SO_REUSEPORT, socket(7)) have a queue each, and the kernel keeps a client with its socket as long as
the members are the same. They are, whatever process dies, since all are held here.
"""

import ctypes
import socket
import struct
from collections.abc import Sequence
from socket import SocketType
from typing import Final, Self

from userproxy.addresses import is_ipv6
from userproxy.forwarding.udp.groups.spreading import program
from userproxy.forwarding.udp.sockets import DatagramSocket, holder_of, is_holder

_SO_ATTACH_REUSEPORT_CBPF: Final = 51
"""asm-generic/socket.h, since Linux 4.5."""

_BYTES_OF_INSTRUCTION: Final = 8


class DatagramGroup:
    """At least one socket. Which of several takes a client's datagrams says :func:`spreading.member_of`.

    While there are several another socket keeps other programs from joining them: any of this user could, by chance
    even one that binds to port 0 with SO_REUSEPORT.
    """

    def __init__(self, members: Sequence[DatagramSocket], guard: SocketType | None = None) -> None:
        self.members = tuple(members)
        self.host = members[0].host
        self._guard = guard
        self._by_address: bool | None = None

    @classmethod
    def open(cls, host: str, port: int) -> Self:
        """One socket, as :meth:`DatagramSocket.open`. Raises PortUnavailableError."""
        return cls([DatagramSocket.open(host, port)])

    @classmethod
    def adopt(cls, descriptors: Sequence[int], host: str) -> Self:
        """Those of another process, in the order of their numbers, and what kept others from them there."""
        return cls.of(DatagramSocket.adopt(descriptors[0], host, None), descriptors[1:])

    @classmethod
    def of(cls, first: DatagramSocket, others: Sequence[int]) -> Self:
        """The first one of another process, and the others that belong to it."""
        members: list[DatagramSocket] = [first]
        guard: SocketType | None = None
        for descriptor in others:
            each = DatagramSocket.adopt(descriptor, first.host, None)
            if is_holder(each):
                guard = each
            else:
                members.append(each)
        if guard is None and len(members) > 1:
            guard = holder_of(members)
        return cls(members, guard)

    @property
    def port(self) -> int:
        """That of all of them."""
        return self.members[0].port

    @property
    def guard(self) -> SocketType | None:
        """What keeps other programs from joining, if anything does."""
        return self._guard

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those of the members, and of what keeps others from them."""
        guard = () if self._guard is None else (self._guard.fileno(),)
        return (*(each.fileno() for each in self.members), *guard)

    def widen(self, count: int, *, by_address: bool = False) -> None:
        """Be `count` sockets, where it is one. Raises OSError, and is then what it was."""
        (first,) = self.members
        members = [first]
        try:
            while len(members) < count:
                members.append(DatagramSocket.open_member(self.host, self.port, members))
            _spread(members, by_address=by_address)
        except OSError:
            for each in members[1:]:
                each.close()
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
            raise
        self.members = tuple(members)
        self._by_address = by_address
        self._guard = holder_of(members)

    def spread(self, *, by_address: bool) -> None:
        """Have all clients of an address meet one member from now on, or not. Raises OSError."""
        if len(self.members) > 1 and by_address is not self._by_address:
            _spread(self.members, by_address=by_address)
            self._by_address = by_address

    def refuse(self) -> None:
        """As :meth:`DatagramSocket.refuse`. Raises OSError."""
        if len(self.members) == 1:
            self.members[0].refuse()
            return
        for each in self.members:
            each.take_only_its_own()

    def admit(self) -> None:
        """As :meth:`DatagramSocket.admit`: its sockets are others from then on. Raises OSError, and then refuses on."""
        if len(self.members) == 1:
            self.members[0].admit()
            return
        before: list[SocketType] = [*self.members, *([] if self._guard is None else [self._guard])]
        for each in self.members:  # else those that come would be of the same group, and in it behind these
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        fresh: list[DatagramSocket] = []
        try:
            for _ in self.members:
                fresh.append(DatagramSocket.open_member(self.host, self.port, fresh, before))
            _spread(fresh, by_address=bool(self._by_address))
            guard = holder_of(fresh, *before)
        except OSError:
            for each in fresh:
                each.close()
            raise
        for old in before:  # other processes may have copies yet when this is called again
            old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.close()
        self.members = tuple(fresh)
        self._guard = guard

    def close(self) -> None:
        """Close our copies of all of them."""
        for each in self.members:
            each.close()
        if self._guard is not None:
            self._guard.close()


def _spread(members: Sequence[DatagramSocket], *, by_address: bool) -> None:
    code = program(len(members), is_ipv6=is_ipv6(members[0].host), by_address=by_address)
    memory = ctypes.create_string_buffer(code, len(code))
    count = len(code) // _BYTES_OF_INSTRUCTION
    pointer = struct.pack("HP", count, ctypes.addressof(memory))  # struct sock_fprog (linux/filter.h)
    members[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, pointer)
