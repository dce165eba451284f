"""Sockets that a UDP listener reads besides its own: those of a group whose readers are fewer than its members."""

import os
from collections.abc import Collection, Iterable
from functools import partial
from socket import SocketType
from typing import Protocol, Self

from userproxy.forwarding.poller import WHILE_DATAGRAMS, Poller
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.sockets import DatagramSocket, dropped
from userproxy.forwarding.udp.statistics import UdpStatistics


class Listener(Protocol):
    """Whose they are."""

    statistics: UdpStatistics

    def abort(self) -> None:
        """See :class:`~userproxy.forwarding.poller.Owner`."""

    def read(self, events: int, descriptor: int) -> None:
        """Take what there is at a socket, perhaps not all of it."""


class FurtherSockets:
    """Those of one listener. Answers leave by its own socket: they have the same port.

    `guard` is what keeps other programs from the group, if this process is to see to that.
    """

    def __init__(self, poller: Poller, listener: Listener, guard: SocketType | None = None) -> None:
        self._poller = poller
        self._listener = listener
        self._guard = guard
        self._watched = False
        self._sockets: dict[int, DatagramSocket] = {}
        """By the numbers of their inodes, which tell sockets apart whatever their descriptors are."""

    @classmethod
    def of(cls, group: DatagramGroup, poller: Poller, listener: Listener) -> Self | None:
        """All of a group but the first, which is the listener's own; None if that is all."""
        if len(group.members) == 1:
            return None
        found = cls(poller, listener, group.guard)
        found.follow(each.detach() for each in group.members[1:])
        return found

    @property
    def sockets(self) -> Collection[DatagramSocket]:
        """All of them."""
        return self._sockets.values()

    @property
    def descriptors(self) -> list[int]:
        """Those of all sockets, and of the guard."""
        guard = [] if self._guard is None else [self._guard.fileno()]
        return [*(each.fileno() for each in self._sockets.values()), *guard]

    def follow(self, descriptors: Iterable[int]) -> None:
        """Have these and no others; they are ours from now on. Raises OSError where one cannot be watched."""
        wanted = {inode_of(each): each for each in descriptors}
        for inode in self._sockets.keys() - wanted.keys():
            self._leave(self._sockets.pop(inode))
        fresh: list[DatagramSocket] = []
        for inode, descriptor in wanted.items():
            if inode in self._sockets:
                os.close(descriptor)
            else:
                fresh.append(self._add(inode, DatagramSocket(descriptor)))
        for each in fresh if self._watched else ():
            self._watch(each)

    def watch(self) -> None:
        """Read them from now on. Raises OSError."""
        if not self._watched:
            self._watched = True
            for sock in self._sockets.values():
                self._watch(sock)

    def pause(self) -> None:
        """Read none of them until :meth:`watch`: the poller would tell of what is there again and again."""
        if self._watched:
            self._watched = False
            self.forget()

    def close(self) -> None:
        """Have none of them any longer."""
        self.follow(())
        if self._guard is not None:
            self._guard.close()

    def forget(self) -> None:
        """Watch none of them any longer, and keep them."""
        for sock in self._sockets.values():
            self._poller.forget(sock)

    def forsake(self) -> None:
        """Close our copies: they are another process's."""
        for sock in self._sockets.values():
            self._listener.statistics.unwatch(sock)
            sock.close()
        if self._guard is not None:
            self._guard.close()

    def _add(self, inode: int, sock: DatagramSocket) -> DatagramSocket:
        self._sockets[inode] = sock
        # The kernel has counted since the socket was opened, for other processes.
        self._listener.statistics.add_dropped(-dropped(sock))
        self._listener.statistics.watch(sock)
        return sock

    def _watch(self, sock: DatagramSocket) -> None:
        # Not edge-triggered: what the listener leaves here for another turn it is told of again.
        read = partial(self._listener.read, descriptor=sock.fileno())
        self._poller.add(sock.fileno(), WHILE_DATAGRAMS, read, self._listener)

    def _leave(self, sock: DatagramSocket) -> None:
        self._listener.statistics.unwatch(sock)
        self._poller.close_at_once(sock)


def inode_of(descriptor: int) -> int:
    """What tells a socket from others, in whatever process."""
    return os.fstat(descriptor).st_ino
