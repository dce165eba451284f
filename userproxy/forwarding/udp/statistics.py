"""What a UDP listener has done so far, in figures."""

from socket import SocketType
from typing import ClassVar

from userproxy.forwarding.observation.counters import ListenerCounters
from userproxy.forwarding.udp.sockets import dropped


class UdpStatistics(ListenerCounters):
    """What one UDP service port has done so far; ``active`` is what it is doing.

    ``accepted`` counts flows opened. ``unserved`` counts datagrams of clients that no endpoint could be found for,
    ``unsent`` those that the kernel would not send, in either direction. ``moved`` counts flows that went to another
    endpoint, ``dial_failures`` refusals of endpoints, ``evicted`` flows that made room for others, ``unopened`` clients
    who could have no flow.
    """

    __slots__ = (
        "_dropped",
        "_sockets",
        "datagrams_down",
        "datagrams_up",
        "evicted",
        "moved",
        "unopened",
        "unsent",
    )

    numbers: ClassVar[tuple[str, ...]] = (
        *ListenerCounters.numbers,
        "_dropped",
        "datagrams_down",
        "datagrams_up",
        "evicted",
        "moved",
        "unopened",
        "unsent",
    )

    def __init__(self) -> None:
        super().__init__()
        self.unopened = 0
        self.unsent = 0
        self.moved = 0
        self.evicted = 0
        self.datagrams_up = 0
        self.datagrams_down = 0
        self._dropped = 0
        self._sockets: set[SocketType] = set()

    @property
    def dropped(self) -> int:
        """Datagrams that the kernel dropped because a buffer was full; those from endpoints as of their flow's end."""
        return self._dropped + sum(map(dropped, self._sockets))

    def watch(self, sock: SocketType) -> None:
        """Count what the kernel drops at a socket from now on."""
        self._sockets.add(sock)

    def unwatch(self, sock: SocketType) -> None:
        """Count what the kernel drops at a socket no longer; the figure stays."""
        if sock in self._sockets:
            self._sockets.remove(sock)
            self._dropped += dropped(sock)

    def add_dropped(self, count: int) -> None:
        self._dropped += count
