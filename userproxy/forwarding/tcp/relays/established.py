"""What is known of an established connection, and as what value it goes to another process."""

from socket import SocketType
from typing import TYPE_CHECKING, Protocol, cast

from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.observation.counters import EndpointCounters
from userproxy.forwarding.observation.recorder import FailedDial, Peer, Portal
from userproxy.forwarding.shares import BEGIN_SECONDS, IDLE_SECONDS, SILENT_SECONDS
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.relays.buffer import Parts
from userproxy.forwarding.tcp.relays.context import RelayContext
from userproxy.forwarding.tcp.relays.ways import Ways
from userproxy.forwarding.tcp.sockets import quiet_seconds, unacknowledged
from userproxy.forwarding.tcp.states import DirectionState, RelayState
from userproxy.model import Endpoint
from userproxy.model.reports import Outcome

if TYPE_CHECKING:
    from userproxy.forwarding.tcp.relay import Relay


class RelayOwner(Protocol):
    """Whose connections they are."""

    def relayed(self, relay: "Relay") -> None:
        """One has ended."""


class EstablishedConnection:
    """What can be asked of a :class:`~userproxy.forwarding.tcp.relay.Relay`.

    `endpoint` is whom the backend's socket is connected to. `cut` is None, or as what it was ended before its time, and
    why. Whoever makes one sets `id`, `dial` and `counters`; `settled_up` and `settled_down` are the bytes of it that
    are counted there already.
    """

    __slots__ = (
        "_backend",
        "_client",
        "_context",
        "_limit",
        "_owner",
        "_parts",
        "_seen",
        "_view",
        "_ways",
        "closed",
        "count_down",
        "count_up",
        "counters",
        "cut",
        "dial",
        "dial_seconds",
        "ended_down",
        "ended_up",
        "endpoint",
        "id",
        "settled_down",
        "settled_up",
    )
    _context: RelayContext
    _view: memoryview
    _parts: Parts
    """Those of the context at its beginning: each look-up by way of the context costs a message 30 instructions."""
    _client: SocketType
    _backend: SocketType
    _owner: RelayOwner
    _limit: "DeadlineQueue[Relay] | None"
    """The time limit that runs."""
    _ways: Ways | None
    """What moves the bytes instead of this, once that has been needed."""
    count_up: int
    count_down: int
    """Bytes that were read without :attr:`_ways`; all that were read once it is closed."""
    _seen: int
    """What had been delivered when the half-open time last began."""
    id: int
    dial: Dial
    dial_seconds: float
    counters: EndpointCounters
    endpoint: Endpoint | None
    cut: tuple[Outcome, str] | None
    closed: bool
    ended_up: bool
    ended_down: bool
    """Whether the FIN of the client, of the backend, was read without :attr:`_ways`."""
    settled_up: int
    settled_down: int

    @property
    def bytes_up(self) -> int:
        """Bytes read from the client so far."""
        return self.count_up if self._ways is None else self._ways.upward.count

    @property
    def bytes_down(self) -> int:
        """Bytes read from the backend so far."""
        return self.count_down if self._ways is None else self._ways.downward.count

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes read from the client and from the backend so far."""
        return self.bytes_up, self.bytes_down

    @property
    def half_closed(self) -> bool:
        """Whether one side has ended it and the other has not."""
        ways = self._ways
        return self.ended_up or self.ended_down if ways is None else ways.upward.ended or ways.downward.ended

    @property
    def opened(self) -> float:
        """When the client was accepted, on the clock."""
        return self.dial.opened

    @property
    def peer(self) -> Peer:
        """The client's address and port."""
        return self.dial.peer

    @property
    def portal(self) -> Portal:
        """What the client dialled."""
        return self.dial.portal

    @property
    def failed(self) -> tuple[FailedDial, ...]:
        """The dials before that have failed."""
        return self.dial.failed

    @property
    def node(self) -> Peer:
        """From where the endpoint was dialled."""
        ip, port, *_ = self._backend.getsockname()
        return ip, port

    def quiet(self) -> tuple[float, float]:
        """Seconds since the client last sent or received bytes, and after how many it counts as idle.

        The kernel knows these times to 4 ms only, so a client that was answered faster counts as one that waits for its
        answer. One that nobody has said anything on counts from its handshake.
        """
        heard, told = quiet_seconds(self._client)
        if self.bytes_up and heard <= told:
            return heard, SILENT_SECONDS
        return min(heard, told), IDLE_SECONDS if self.bytes_up or self.bytes_down else BEGIN_SECONDS

    @property
    def sockets(self) -> tuple[SocketType, SocketType]:
        """The client's and the backend's."""
        return self._client, self._backend

    @property
    def mark(self) -> tuple[int, int, int, int] | None:
        """What changes whenever the state changes; None while it may change otherwise."""
        ways = self._ways
        if self.half_closed or (ways is not None and not (ways.upward.is_plain and ways.downward.is_plain)):
            return None
        return self.bytes_up, self.bytes_down, self.settled_up, self.settled_down

    @property
    def pipe_ends(self) -> tuple[int, ...]:
        """Descriptors of the pipes in which bytes wait: two for the way up and two for the way down, if there are."""
        return () if self._ways is None else self._ways.pipe_ends

    def beginning(self) -> RelayState:
        """What stays as it is, as a value: how it began, without what it has moved."""
        return RelayState(self.dial.state(), self.dial_seconds, DirectionState(), DirectionState())

    def state(self) -> RelayState:
        """The same as a value, to which its sockets and :attr:`pipe_ends` belong."""
        ways = self._ways
        return RelayState(
            self.dial.state(),
            self.dial_seconds,
            DirectionState(self.count_up, self.ended_up) if ways is None else ways.upward.state(),
            DirectionState(self.count_down, self.ended_down) if ways is None else ways.downward.state(),
            self._moved() if self._limit is self._context.closing else self._seen,
            self.deadline,
            (self.settled_up, self.settled_down),
        )

    @property
    def deadline(self) -> float | None:
        """When its half-open time is over, or is looked at again; None if it does not run."""
        limit, half_open = self._limit, self._context.half_open
        deadline = None if limit is None else limit.deadline(cast("Relay", self))
        return deadline if deadline is None or limit is half_open else deadline + half_open.seconds

    def _moved(self) -> int:
        ways = self._ways
        if ways is not None:
            return ways.upward.delivered() + ways.downward.delivered()
        return self.count_up + self.count_down - unacknowledged(self._backend) - unacknowledged(self._client)
