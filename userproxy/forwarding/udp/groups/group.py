"""The sockets of a UDP listener as the process has them that opens and holds them: one, or one for each data process.

Sockets of a group (SO_REUSEPORT, socket(7)) have a queue each, and the kernel keeps a client with its socket as long as
the members are the same. They are, whatever process dies, since all are held here.
"""

import errno
import socket
from collections.abc import Sequence
from secrets import randbelow
from socket import SocketType
from typing import Final, Self

from userproxy.addresses import host_and_port, is_ipv6
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.udp.groups.spreading import program
from userproxy.forwarding.udp.sockets import DatagramSocket, holder_of, is_holder
from userproxy.sockets import lead_to_first, steer

_LOOPBACK: Final = 1
"""The number of `lo` in every network namespace."""

_INTERFACES: Final = 2**30
"""From here on no interface has a number. Two processes that open the same portal at the same time have others, and a
guard has the last one."""

_NO_INTERFACES: Final = (errno.EPERM, errno.ENOPROTOOPT)
"""What kernels before 5.7 say to a process without CAP_NET_RAW, and those before 5.0 to everybody."""


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
        self._settled = len(members)
        """How many of them get datagrams."""

    @classmethod
    def open(cls, host: str, port: int) -> Self:
        """One socket, as :meth:`DatagramSocket.open`. Raises PortUnavailableError."""
        return cls([DatagramSocket.open(host, port)])

    @classmethod
    def open_at_portal(cls, host: str, port: int, instructions: bytes | None, count: int = 1) -> Self:
        """`count` sockets at a portal, beside those that other processes of this user have there.

        They are a group of their own, whatever becomes of the others', since they are bound as if they belonged to an
        interface. Over IPv4 all datagrams come to them from then on, because the kernel takes the newest of equals;
        over IPv6 it takes the oldest (udp_lib_get_port(), net/ipv4/udp.c), so they come to the others until these are
        closed or stand aside. Where the kernel does not let us do so there is one socket, of the others' group, to
        which it leads. `instructions` say who is let in, None for everybody. Raises PortUnavailableError.
        """
        try:
            try:
                members = open_apart(host, port, instructions, count)
                _appear(members)
                return cls(members)
            except OSError as error:
                if error.errno not in _NO_INTERFACES:
                    raise
            return cls([DatagramSocket.open_shared(host, port, instructions)])
        except OSError as error:
            raise PortUnavailableError(f"cannot listen on UDP {host_and_port(host, port)}: {error.strerror}") from error

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
        self._settled = count
        self._by_address = by_address
        self._guard = holder_of(members)

    def grow(self, count: int) -> None:
        """Have `count` sockets, more than there are. Further ones get nothing before :meth:`settle`.

        For sockets that another process reads, which may go on to do so: after :meth:`close` nothing is other than it
        was. Raises OSError, and is then what it was; EINVAL where the first socket is one that others cannot join.
        """
        before, others = self.members, [] if self._guard is None else [self._guard]
        if len(before) == 1:
            lead_to_first(before[0])
        fresh: list[DatagramSocket] = []
        try:
            while len(before) + len(fresh) < count:
                fresh.append(DatagramSocket.open_member(self.host, self.port, [*before, *fresh], others))
        except OSError:
            for each in fresh:
                each.close()
            self._shut(before)
            raise
        self.members = (*before, *fresh)
        self._guard = self._guard or holder_of(self.members)

    def settle(self, *, by_address: bool) -> tuple[DatagramSocket, ...]:
        """Spread clients over all sockets from now on, after :meth:`grow`. Raises OSError.

        Returns those that had all of them: what waits there may be others' clients'.
        """
        before, self._settled = self.members[: self._settled], len(self.members)
        self._by_address = None
        self.spread(by_address=by_address)
        return before

    def spread(self, *, by_address: bool) -> None:
        """Have all clients of an address meet one member from now on, or not. Raises OSError; EINVAL if it refuses."""
        is_settled = len(self.members) == self._settled
        if len(self.members) > 1 and is_settled and by_address is not self._by_address:
            _spread(self.members, by_address=by_address)
            self._by_address = by_address

    def refuse(self) -> None:
        """As :meth:`DatagramSocket.refuse`. Raises OSError."""
        if len(self.members) == 1:
            self.members[0].refuse()
            return
        for each in self.members:
            each.take_only_its_own()

    def admit(self, *, by_address: bool) -> None:
        """As :meth:`DatagramSocket.admit`: its sockets are others from then on, which clients are spread over anew.

        Raises OSError, and then refuses on.
        """
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
            _spread(fresh, by_address=by_address)
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
        self._by_address = by_address

    def close(self) -> None:
        """Close our copies of all of them."""
        if self._settled < len(self.members):
            self._shut(self.members[: self._settled])
        for each in self.members:
            each.close()
        if self._guard is not None:
            self._guard.close()

    def _shut(self, members: Sequence[DatagramSocket]) -> None:
        """Let nobody join a socket that is alone again."""
        if len(members) == 1:
            members[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def open_apart(host: str, port: int, instructions: bytes | None, count: int) -> Sequence[DatagramSocket]:
    """`count` sockets at a portal that are a group of their own, until they :meth:`~DatagramSocket.appear`.

    Over IPv4 nothing comes to them before: they are of an interface that nobody has. IPv6 takes none that is not there
    (inet6_bind()), so it is `lo`, and what processes of this node send comes to them already. Raises OSError.
    """
    interface = _LOOPBACK if is_ipv6(host) else _INTERFACES + randbelow(_INTERFACES - 1)
    members: list[DatagramSocket] = []
    try:
        while len(members) < count:
            members.append(DatagramSocket.open_shared(host, port, instructions, interface))
        if count > 1:
            _spread(members, by_address=False)
    except OSError:
        for each in members:
            each.close()
        raise
    return members


def _appear(members: Sequence[DatagramSocket]) -> None:
    try:
        for each in members:
            each.appear()
    except OSError:
        for each in members:
            each.close()
        raise


def _spread(members: Sequence[DatagramSocket], *, by_address: bool) -> None:
    steer(members[0], program(len(members), is_ipv6=is_ipv6(members[0].host), by_address=by_address))
