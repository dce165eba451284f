"""Local ports of our connections to endpoints: those in TIME_WAIT are used again, before they run out.

The side that closes first holds the connection's two addresses for a minute (TIME_WAIT). Towards the endpoint that is
us whenever the client has closed first. The kernel's 28,232 ports run out at 470 such connections a second. Long
before, once half of them are taken, connect(2) searches the range at every call, for up to 12 ms.

A connection that is bound to such a port explicitly may have it at once, where both sides use TCP timestamps
(tcp_twsk_unique() in the kernel, RFC 6191): the sequence numbers go on from the old ones. connect(2) that chooses by
itself does so only with net.ipv4.tcp_tw_reuse, which is the node's to set. A port that was never used by connect(2) is
left alone: it would be lost to every other program's connect(2) as long as it is bound.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from userproxy.forwarding.ports.ranges import ephemeral_ports
from userproxy.model import Endpoint

_GENERATION_SECONDS: Final = 25.0
"""Two generations are kept, so that no port is remembered for longer than its TIME_WAIT lasts: 60 s."""


class SourcePorts:
    """The local ports that our connections have left in TIME_WAIT, by endpoint.

    ``crowded`` are the endpoints with a quarter of all ports or more: for these, :meth:`take` should be asked first.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._recent: dict[Endpoint, deque[int]] = {}
        self._older: dict[Endpoint, deque[int]] = {}
        self._many = 0
        self._next_generation = float("-inf")
        self.crowded: set[Endpoint] = set()

    def note(self, endpoint: Endpoint, port: int) -> None:
        """Note that a connection from `port` to `endpoint` has just gone to TIME_WAIT."""
        if self._now() >= self._next_generation:
            self._follow_time()
        ports = self._recent.get(endpoint)
        if ports is None:
            ports = self._recent[endpoint] = deque()
        ports.append(port)
        if len(ports) + len(self._older.get(endpoint, ())) >= self._many:
            self.crowded.add(endpoint)

    def take(self, endpoint: Endpoint) -> int | None:
        """Take out the port that has been in TIME_WAIT towards `endpoint` for longest; None if there is none."""
        self._follow_time()
        ports = self._older.get(endpoint) or self._recent.get(endpoint)
        if not ports:
            self.crowded.discard(endpoint)
            return None
        if self._count(endpoint) <= self._many // 2:
            self.crowded.discard(endpoint)
        return ports.popleft()

    def _count(self, endpoint: Endpoint) -> int:
        return len(self._recent.get(endpoint, ())) + len(self._older.get(endpoint, ()))

    def _follow_time(self) -> None:
        now = self._now()
        if now < self._next_generation:
            return
        stale = now >= self._next_generation + _GENERATION_SECONDS
        self._older, self._recent = {} if stale else self._recent, {}
        self._next_generation = (now if stale else self._next_generation) + _GENERATION_SECONDS
        ports = ephemeral_ports()
        self._many = max(1, (ports.last - ports.first + 1) // 4)
        self.crowded = {endpoint for endpoint in self.crowded if self._count(endpoint) >= self._many}
