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
from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct, structs

from userproxy.forwarding.ports.ranges import ephemeral_ports
from userproxy.model import Endpoint

_GENERATION_SECONDS: Final = 25.0
"""Two generations are kept, so that no port is remembered for longer than its TIME_WAIT lasts: 60 s."""

_CROWD_PART: Final = 4
"""An endpoint is crowded that has one part in so many of all ports."""

_BUSY_PART: Final = 16
"""As long as it has less than one part in so many they are only counted: to ask for a port costs a system call."""

_COUNTED_IN: Final = 16
"""In how many steps connections are counted until an endpoint is busy."""

_AT_ONCE: Final = 1000


class PortsState(Struct, frozen=True, gc=False, array_like=True):
    """Local ports in TIME_WAIT towards an endpoint, those first that have been for longest; forgotten at `until`."""

    endpoint: Endpoint
    ports: tuple[int, ...]
    until: float

    def shared(self, processes: int) -> list["PortsState"]:
        """The same for several processes, so that each port is known to one of them."""
        return [structs.replace(self, ports=self.ports[first::processes]) for first in range(processes)]


class SourcePorts:
    """The local ports that our connections have left in TIME_WAIT, by endpoint.

    ``crowded`` are the endpoints with a quarter of all ports or more: for these, :meth:`take` should be asked first.
    ``busy`` are those whose ports are noted. Of several `processes` each knows its own: its part of all ports counts.
    As long as none is busy, `at_once` connections to an endpoint may be counted together.
    """

    def __init__(self, now: Callable[[], float], processes: int = 1) -> None:
        self._now = now
        self._processes = processes
        self._recent: dict[Endpoint, deque[int]] = {}
        self._older: dict[Endpoint, deque[int]] = {}
        self._unnoted: dict[Endpoint, int] = {}
        self._unnoted_before: dict[Endpoint, int] = {}
        self._some = 0
        self._many = 0
        self._next_generation = float("-inf")
        self.crowded: set[Endpoint] = set()
        self.busy: set[Endpoint] = set()
        self.at_once = 1

    def is_to_be_noted(self, endpoint: Endpoint, connections: int = 1) -> bool:
        """Whether :meth:`note` is to be told of a connection to `endpoint` that has just gone to TIME_WAIT.

        Otherwise it is counted here: as so many, if others of the last seconds have not been told of.
        """
        if self._now() >= self._next_generation:
            self._follow_time()
        if self.busy and endpoint in self.busy:
            return True
        count = self._unnoted[endpoint] = self._unnoted.get(endpoint, 0) + connections
        if count >= self._some:
            self.busy.add(endpoint)
            self.at_once = 1
        return False

    def note(self, endpoint: Endpoint, port: int) -> None:
        """Note that a connection from `port` to `endpoint` has just gone to TIME_WAIT."""
        if self._now() >= self._next_generation:
            self._follow_time()
        ports = self._recent.get(endpoint)
        if ports is None:
            ports = self._recent[endpoint] = deque()
        ports.append(port)
        if self._count(endpoint) >= self._many:
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

    def states(self) -> Iterator[PortsState]:
        """All ports as values, a thousand at most in each. The ports may be used meanwhile."""
        self._follow_time()
        end = self._next_generation
        for generation, until in ((self._older, end), (self._recent, end + _GENERATION_SECONDS)):
            for endpoint, ports in list(generation.items()):
                known = tuple(ports)
                for begin in range(0, len(known), _AT_ONCE):
                    yield PortsState(endpoint, known[begin : begin + _AT_ONCE], until)

    def restore(self, state: PortsState) -> None:
        """Have the ports of another process, for as long as it would have had them, or somewhat shorter."""
        now = self._now()
        if not self._recent and not self._older:
            self._follow_time()
            later = state.until - _GENERATION_SECONDS
            self._next_generation = later if later > now else max(now, state.until)
        self._follow_time()
        if state.until < self._next_generation:
            return
        is_recent = state.until >= self._next_generation + _GENERATION_SECONDS
        ports = (self._recent if is_recent else self._older).setdefault(state.endpoint, deque())
        ports.extend(state.ports)
        if self._count(state.endpoint) >= self._many:
            self.crowded.add(state.endpoint)

    def _count(self, endpoint: Endpoint) -> int:
        noted = len(self._recent.get(endpoint, ())) + len(self._older.get(endpoint, ()))
        return noted + self._unnoted.get(endpoint, 0) + self._unnoted_before.get(endpoint, 0)

    def _follow_time(self) -> None:
        now = self._now()
        if now < self._next_generation:
            return
        stale = now >= self._next_generation + _GENERATION_SECONDS
        self.busy.intersection_update(self._recent)
        self._older, self._recent = {} if stale else self._recent, {}
        self._unnoted_before, self._unnoted = {} if stale else self._unnoted, {}
        self._next_generation = (now if stale else self._next_generation) + _GENERATION_SECONDS
        ports = ephemeral_ports()
        count = (ports.last - ports.first + 1) // self._processes
        self._many, self._some = max(1, count // _CROWD_PART), max(1, count // _BUSY_PART)
        self.at_once = 1 if self.busy else max(1, self._some // _COUNTED_IN)
        self.crowded = {endpoint for endpoint in self.crowded if self._count(endpoint) >= self._many}
