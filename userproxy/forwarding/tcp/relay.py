"""The relay: moves the bytes of one connection between its two sockets.

The rules it keeps:

- A FIN is passed on as a half-close and the other direction goes on; a connection that stays half-open
  without moving a byte for the time limit is reset.
- A RST, or any other failure of a socket, is passed on as a RST.
- At most one buffer, or one pipe, of unsent bytes per direction: while it is not empty nothing more is
  read, and TCP's own window slows the sender. A pipe that is stuck may be wanted elsewhere; its bytes are kept.

Small messages are copied: recv, send, and nothing is armed unless the send was short. A read that fills
the buffer moves its direction to splice(2) through a pipe, and back when it slackens.
"""

from collections.abc import Callable
from socket import SocketType
from typing import Final

from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.observation.counters import EndpointCounters
from userproxy.forwarding.observation.reasons import GIVEN_UP, RESET_BY_CLIENT, RESET_BY_ENDPOINT
from userproxy.forwarding.observation.recorder import FailedDial, Peer, Portal, Recorder
from userproxy.forwarding.poller import ANOTHER_TURN, FAILED, HANGUP, READABLE, STREAM, WRITABLE, Poller
from userproxy.forwarding.shares import BEGIN_SECONDS, IDLE_SECONDS, SILENT_SECONDS
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.direction import Direction, DirectionContext
from userproxy.forwarding.tcp.pipes import PipePool
from userproxy.forwarding.tcp.sockets import end_at_once, keep_alive, quiet_seconds, reset_on_close, was_reset
from userproxy.forwarding.tcp.source_ports import SourcePorts
from userproxy.forwarding.tcp.states import DirectionState, RelayState
from userproxy.forwarding.tcp.tap import FROM_CLIENT, FROM_ENDPOINT, TO_CLIENT, TO_ENDPOINT, Listener, TappedSockets
from userproxy.model import Endpoint
from userproxy.model.reports import ChangeKind, Outcome, Source

CLOSING_SECONDS: Final = 1.0
"""Most half-closed connections have ended after this time; the kernel is asked only then what they have delivered."""

_CLIENT: Final = Source.CLIENT


class RelayContext(DirectionContext):
    """What all relays of a process share: besides what directions do, the half-open time limit and local ports.

    Half-closed ones are in `closing` first, and then in `half_open`.
    `shared` is whether another process has copies of their sockets, for a hand-over: then close(2) alone tells
    their peers nothing. `copied` is whether another one may have some at all: one that a program is being started in
    does for a moment.
    """

    __slots__ = ("closing", "copied", "half_open", "recorder", "shared", "source_ports")

    def __init__(
        self,
        poller: Poller,
        pipes: PipePool,
        closing: "DeadlineQueue[Relay]",
        half_open: "DeadlineQueue[Relay]",
        source_ports: SourcePorts,
        recorder: Recorder,
    ) -> None:
        super().__init__(poller, pipes)
        self.recorder = recorder
        self.closing = closing
        self.half_open = half_open
        self.source_ports = source_ports
        self.shared = False
        self.copied = True


class Relay:
    """Both directions of one connection.

    `on_end(relay)` is called once, when both sockets have been given to the poller to close.
    `endpoint` is whom `backend` is connected to. `cut` is None, or as what it was ended before its time, and why.
    Whoever makes one sets `id`, `dial` and `counters`; `settled_up` and `settled_down` are the bytes of it that are
    counted there already.
    """

    __slots__ = (
        "_backend",
        "_client",
        "_context",
        "_limit",
        "_on_end",
        "_seen",
        "closed",
        "counters",
        "cut",
        "dial",
        "dial_seconds",
        "downward",
        "endpoint",
        "id",
        "settled_down",
        "settled_up",
        "upward",
    )
    id: int
    dial: Dial
    dial_seconds: float
    counters: EndpointCounters

    def __init__(
        self,
        context: RelayContext,
        client: SocketType,
        backend: SocketType,
        endpoint: Endpoint | None,
        on_end: "Callable[[Relay], None]",
    ) -> None:
        self._context = context
        self._client = client
        self._backend = backend
        self._on_end = on_end
        self._limit: DeadlineQueue[Relay] | None = None
        """The time limit that runs."""
        self.upward, self.downward = Direction(), Direction()
        self.upward.begin(self, context, client, backend)
        self.downward.begin(self, context, backend, client)
        self._seen = 0
        self.endpoint = endpoint
        self.closed = False
        self.cut: tuple[Outcome, str] | None = None
        self.settled_up = 0
        self.settled_down = 0

    @property
    def bytes_up(self) -> int:
        """Bytes read from the client so far."""
        return self.upward.count

    @property
    def bytes_down(self) -> int:
        """Bytes read from the backend so far."""
        return self.downward.count

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes read from the client and from the backend so far."""
        return self.upward.count, self.downward.count

    @property
    def half_closed(self) -> bool:
        """Whether one side has ended it and the other has not."""
        return self.upward.ended or self.downward.ended

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

    def tap(self, listener: Listener, context: DirectionContext) -> None:
        """Tell `listener` what passes from now on, in a context without pipes."""
        client, backend = self._client, self._backend
        self.upward.tap(TappedSockets(client, backend, listener, FROM_CLIENT, TO_ENDPOINT), context)
        self.downward.tap(TappedSockets(backend, client, listener, FROM_ENDPOINT, TO_CLIENT), context)

    def untap(self) -> None:
        """Tell nobody any more."""
        if not self.closed:
            self.upward.untap(self._client, self._backend, self._context)
            self.downward.untap(self._backend, self._client, self._context)

    def go_by(self, client: SocketType, backend: SocketType, context: RelayContext) -> None:
        """Go on by other ends of the same sockets, in a context without pipes unless they are the sockets themselves.

        They are watched as before.
        """
        self._client, self._backend, self._context = client, backend, context
        self.upward.go_by(client, backend, context)
        self.downward.go_by(backend, client, context)

    def quiet(self) -> tuple[float, float]:
        """Seconds since the client last sent or received bytes, and after how many it counts as idle.

        The kernel knows these times to 4 ms only, so a client that was answered faster counts as one that waits for its
        answer. One that nobody has said anything on counts from its handshake.
        """
        heard, told = quiet_seconds(self._client)
        if self.bytes_up and heard <= told:
            return heard, SILENT_SECONDS
        return min(heard, told), IDLE_SECONDS if self.bytes_up or self.bytes_down else BEGIN_SECONDS

    def start(self, events: int, header: bytes = b"") -> None:
        """Begin. The backend's socket is watched already: `events` are those that said it is connected.

        The backend gets `header` before all else; it counts among no bytes.
        """
        poller = self._context.poller
        poller.replace(self._backend.fileno(), self.downward.on_events, self)
        poller.add(self._client.fileno(), STREAM, self.upward.on_events, self)
        if header and not self._send_first(header):
            return
        if events != WRITABLE or not self.downward.usual:
            self.downward.on_events(events)

    def _send_first(self, header: bytes) -> bool:
        """Whether the connection goes on: the endpoint may have reset it already."""
        try:
            self.upward.send_first(header)
        except OSError:
            self.fail()
            return False
        self.upward.usual = self.downward.usual = not self.upward.blocked
        return True

    @property
    def sockets(self) -> tuple[SocketType, SocketType]:
        """The client's and the backend's."""
        return self._client, self._backend

    @property
    def mark(self) -> tuple[int, int, int, int] | None:
        """What changes whenever the state changes; None while it may change otherwise."""
        if not (self.upward.is_plain and self.downward.is_plain):
            return None
        return self.upward.count, self.downward.count, self.settled_up, self.settled_down

    @property
    def pipe_ends(self) -> tuple[int, ...]:
        """Descriptors of the pipes in which bytes wait: two for the way up and two for the way down, if there are."""
        pipes = (self.upward.pipe, self.downward.pipe)
        return tuple(end for pipe in pipes if pipe is not None for end in (pipe.read_end, pipe.write_end))

    def beginning(self) -> RelayState:
        """What stays as it is, as a value: how it began, without what it has moved."""
        return RelayState(self.dial.state(), self.dial_seconds, DirectionState(), DirectionState())

    def state(self) -> RelayState:
        """The same as a value, to which its sockets and :attr:`pipe_ends` belong."""
        return RelayState(
            self.dial.state(),
            self.dial_seconds,
            self.upward.state(),
            self.downward.state(),
            self._moved() if self._limit is self._context.closing else self._seen,
            self.deadline,
            (self.settled_up, self.settled_down),
        )

    @property
    def deadline(self) -> float | None:
        """When its half-open time is over, or is looked at again; None if it does not run."""
        limit, half_open = self._limit, self._context.half_open
        deadline = None if limit is None else limit.deadline(self)
        return deadline if deadline is None or limit is half_open else deadline + half_open.seconds

    def restore(self, state: RelayState, ends: tuple[int, ...] = ()) -> None:
        """Be as `state` says; `ends` are :attr:`pipe_ends` of it."""
        self.dial_seconds = state.dial_seconds
        self.settled_up, self.settled_down = state.settled
        self._seen = state.seen
        taken = 0
        for direction, its in ((self.upward, state.up), (self.downward, state.down)):
            pair = (ends[taken], ends[taken + 1]) if its.fill else None
            taken += 2 if its.fill else 0
            direction.restore(its, pair)
        self.upward.usual = self.downward.usual = self.upward.is_usual and self.downward.is_usual
        if state.deadline is not None:
            self._limit = self._context.half_open
            self._limit.restore(self, state.deadline)

    def watch(self) -> None:
        """Go on with a connection of another process: the sockets' present state is their first event."""
        poller = self._context.poller
        poller.add(self._client.fileno(), STREAM, self.upward.on_events, self)
        poller.add(self._backend.fileno(), STREAM, self.downward.on_events, self)

    def vanish(self) -> None:
        """Close our copies of its sockets: it has ended in another process."""
        self.closed = True
        for sock in self.sockets:
            self._context.poller.close_at_once(sock)
        del self.upward, self.downward

    def forsake(self) -> None:
        """Close our copies of its sockets and pipes. The connection is another process's, and nobody is told."""
        self.closed = True
        for direction in (self.upward, self.downward):
            direction.forsake()
        for sock in (self._client, self._backend):
            sock.close()
        del self.upward, self.downward

    def abort(self, reason: str = GIVEN_UP, outcome: Outcome = Outcome.RESET) -> None:
        """End both connections with a RST, dropping what is unsent."""
        if not self.closed:
            self.cut = outcome, reason
            for sock in (self._client, self._backend):
                reset_on_close(sock)
            self._close()

    def stay_half_open(self) -> None:
        """It has not ended soon after it was half-closed: from now on the half-open time runs."""
        self._seen = self._moved()
        self._wait_in(self._context.half_open)

    def keep_alive(self) -> None:
        """Have the kernel notice if the endpoint goes without a word, as it does for the client."""
        keep_alive(self._backend)

    def expire(self) -> None:
        """The half-open time is over: end, unless bytes were moved since it was last looked at."""
        moved = self._moved()
        if moved == self._seen:
            self.abort("half-closed and silent for too long", Outcome.TIMED_OUT)
        else:
            self._seen = moved
            self._wait_in(self._context.half_open)

    def _wait_in(self, limit: DeadlineQueue["Relay"]) -> None:
        self._limit = limit
        limit.add(self)

    def on_events(self, direction: Direction, events: int, *, put_off: bool = False) -> None:
        """Read and send, as the events of the source of `direction` allow. It is the sink of the opposite one.

        In a connection that moves much they are put off, once, until other connections have had their turn.
        """
        if self.closed:
            return
        opposite = self.downward if direction is self.upward else self.upward
        if (direction.bulk or opposite.bulk) and not put_off:
            direction.put_off(events)
            return
        try:
            if opposite.blocked and events & WRITABLE and opposite.flush():
                self._pump(opposite, direction, HANGUP)
            if events & READABLE and not direction.blocked and not direction.ended:
                self._pump(direction, opposite, events)
            if events & FAILED and not self.closed:
                self.abort(self._who_reset())
        except OSError:
            self.fail()
        # Both are usual, without the calls: this is done for every end of a connection.
        direction.usual = opposite.usual = not (
            direction.ended
            or opposite.ended
            or direction.blocked
            or opposite.blocked
            or direction.bulk
            or opposite.bulk
            or self.closed
        )

    def pass_end_on(self, direction: Direction) -> None:
        """Handle the FIN of the source of `direction`, which nothing waits in either direction to go before."""
        direction.ended = True
        direction.usual = False
        if self.upward.ended and self.downward.ended:
            self._finish(direction)
            return
        try:
            self._half_close(direction)
        except OSError:
            self.fail()

    def fail(self) -> None:
        """Handle the failure of a socket. What its peer sent before is passed on, as far as it goes at once."""
        self.upward.salvage()
        self.downward.salvage()
        self.abort(self._who_reset())

    def _who_reset(self) -> str:
        if was_reset(self._client):
            return RESET_BY_CLIENT
        return RESET_BY_ENDPOINT if was_reset(self._backend) else "a socket failed"

    def _pump(self, direction: Direction, opposite: Direction, events: int) -> None:
        if direction.pump(events):
            direction.put_off(ANOTHER_TURN)
        elif direction.ended and opposite.ended:
            self._finish(direction)
        elif direction.ended:
            self._half_close(direction)

    def _finish(self, last: Direction) -> None:
        """Both directions have come to their end, the `last` one now."""
        if last is self.downward and self.endpoint is not None and self.dial.source is not _CLIENT:
            # The backend got its FIN first, so it is our side that has gone to TIME_WAIT.
            ports = self._context.source_ports
            if ports.is_to_be_noted(self.endpoint):
                ports.note(self.endpoint, self._backend.getsockname()[1])
        self._close()  # which also sends the FIN

    def _half_close(self, direction: Direction) -> None:
        direction.half_close()
        context = self._context
        self._wait_in(context.closing)
        if context.recorder.connection_watches:
            context.recorder.tell_change(ChangeKind.MODIFIED, self)

    def _moved(self) -> int:
        return self.upward.delivered() + self.downward.delivered()

    def _close(self) -> None:
        self.closed = True
        context = self._context
        if self._limit is not None:
            self._limit.discard(self)
        for direction in (self.upward, self.downward):
            if direction.bulk or direction.blocked:  # otherwise it has no pipe, and nothing waits
                direction.release()
        if context.shared:
            for sock in (self._client, self._backend):
                end_at_once(sock, reset=self.cut is not None)
        close = context.poller.close if context.copied else context.poller.close_own
        close(self._client)
        close(self._backend)
        self._on_end(self)
        del self.upward, self.downward  # they know this relay: without the cycle it is freed at once
