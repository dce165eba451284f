"""The relay: moves the bytes of one connection between its two sockets.

The rules it keeps:

- A FIN is passed on as a half-close and the other direction goes on; a connection that stays half-open
  without moving a byte for the time limit is reset.
- A RST, or any other failure of a socket, is passed on as a RST.
- At most one buffer, or one pipe, of unsent bytes per direction: while it is not empty nothing more is
  read, and TCP's own window slows the sender. A pipe that is stuck may be wanted elsewhere; its bytes are kept.

Small messages are copied: recv, send, and nothing is armed unless the send was short. A read that fills
the buffer moves its direction to splice(2) through a pipe, and back when it slackens.

Small messages and the end are all that most connections consist of, and are moved right here. What is more than that
is done by a connection's :class:`~userproxy.forwarding.tcp.relays.ways.Ways`, made then.
"""

import select
import socket
from socket import SocketType
from typing import Final

from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.observation.reasons import GIVEN_UP, RESET_BY_CLIENT, RESET_BY_ENDPOINT
from userproxy.forwarding.poller import STREAM, WRITABLE
from userproxy.forwarding.tcp.direction import A_MESSAGE, NOTHING_READ, Direction, DirectionContext
from userproxy.forwarding.tcp.relays.buffer import NoMessageError
from userproxy.forwarding.tcp.relays.context import RelayContext
from userproxy.forwarding.tcp.relays.established import EstablishedConnection, RelayOwner
from userproxy.forwarding.tcp.relays.ways import Ways
from userproxy.forwarding.tcp.sockets import (
    end_at_once,
    keep_alive,
    reset_on_close,
    was_reset,
)
from userproxy.forwarding.tcp.states import DirectionState, RelayState
from userproxy.forwarding.tcp.tap import Listener
from userproxy.model import Endpoint
from userproxy.model.reports import ChangeKind, Outcome, Source

_CLIENT: Final = Source.CLIENT

_AN_END: Final = A_MESSAGE | select.EPOLLRDHUP
_ENDS: Final = frozenset({_AN_END, _AN_END | select.EPOLLHUP})
"""The events of a socket without an error whose peer has sent a FIN, and the same where we have sent one, too."""

_SHUT_WR: Final = socket.SHUT_WR


class Relay(EstablishedConnection):
    """Both directions of one connection.

    `owner.relayed(relay)` is called once, when both sockets have been given to the poller to close.
    """

    __slots__ = ()

    def begin(
        self,
        context: RelayContext,
        client: SocketType,
        backend: SocketType,
        endpoint: Endpoint | None,
        owner: RelayOwner,
    ) -> None:
        """Be one between these sockets. Before everything else: a class with `__init__` costs more to call."""
        self._context = context
        self._view = context.view
        self._parts = context.parts
        self._client = client
        self._backend = backend
        self._owner = owner
        self._limit = self._ways = self.cut = None
        self.count_up = self.count_down = self._seen = self.settled_up = self.settled_down = 0
        self.closed = self.ended_up = self.ended_down = False
        self.endpoint = endpoint

    @property
    def ways(self) -> Ways:
        """Both directions, which from the first time on move what there is to move."""
        ways = self._ways
        if ways is None:
            ways = self._ways = Ways(self, self._context, self._client, self._backend)
            ways.go_on(DirectionState(self.count_up, self.ended_up), DirectionState(self.count_down, self.ended_down))
            poller = self._context.poller
            poller.replace(self._client.fileno(), ways.upward.on_events, self)
            poller.replace(self._backend.fileno(), ways.downward.on_events, self)
        return ways

    @property
    def upward(self) -> Direction:
        """From the client to the backend."""
        return self.ways.upward

    @property
    def downward(self) -> Direction:
        """From the backend to the client."""
        return self.ways.downward

    def tap(self, listener: Listener, context: DirectionContext) -> None:
        """Tell `listener` what passes from now on, in a context without pipes."""
        self.ways.tap(self._client, self._backend, listener, context)

    def untap(self) -> None:
        """Tell nobody any more."""
        if not self.closed:
            self.ways.untap(self._client, self._backend, self._context)

    def go_by(self, client: SocketType, backend: SocketType, context: RelayContext) -> None:
        """Go on by other ends of the same sockets, in a context without pipes unless they are the sockets themselves.

        They are watched as before.
        """
        self.ways.go_by(client, backend, context)
        self._client, self._backend, self._context = client, backend, context

    def start(self, events: int, header: bytes = b"") -> None:
        """Begin. The backend's socket is watched already: `events` are those that said it is connected.

        The backend gets `header` before all else; it counts among no bytes.
        """
        client, backend, ways = self._client, self._backend, self._ways
        poller = self._context.poller
        if ways is None:
            poller.add_beside(client.fileno(), _ON_CLIENT, backend.fileno(), _ON_BACKEND, self)
        else:
            poller.replace(backend.fileno(), ways.downward.on_events, self)
            poller.add(client.fileno(), STREAM, ways.upward.on_events, self)
        if header:
            ways = self.ways
            try:
                ways.send_first(header)
            except OSError:  # the endpoint may have reset it already
                self.fail()
                return
            ways.downward.on_events(events)
        elif events != WRITABLE:
            if ways is None:
                self.on_backend(events)
            else:
                ways.downward.on_events(events)

    def restore(self, state: RelayState, ends: tuple[int, ...] = ()) -> None:
        """Be as `state` says; `ends` are :attr:`pipe_ends` of it."""
        self.dial_seconds = state.dial_seconds
        self.settled_up, self.settled_down = state.settled
        self._seen = state.seen
        if self._ways is None and state.up.is_plain and state.down.is_plain:
            self.count_up, self.ended_up = state.up.count, state.up.ended
            self.count_down, self.ended_down = state.down.count, state.down.ended
        else:
            self.ways.go_on(state.up, state.down, ends)
        if state.deadline is not None:
            self._limit = self._context.half_open
            self._limit.restore(self, state.deadline)

    def watch(self) -> None:
        """Go on with a connection of another process: the sockets' present state is their first event."""
        poller, ways = self._context.poller, self._ways
        for sock, handler in (
            (self._client, self.on_client if ways is None else ways.upward.on_events),
            (self._backend, self.on_backend if ways is None else ways.downward.on_events),
        ):
            poller.add(sock.fileno(), STREAM, handler, self)

    def vanish(self) -> None:
        """Close our copies of its sockets: it has ended in another process."""
        self.closed = True
        for sock in self.sockets:
            self._context.poller.close_at_once(sock)
        self._let_go_of_ways()

    def forsake(self) -> None:
        """Close our copies of its sockets and pipes. The connection is another process's, and nobody is told."""
        self.closed = True
        if self._ways is not None:
            self._ways.forsake()
        for sock in (self._client, self._backend):
            sock.close()
        self._let_go_of_ways()

    def abort(self, reason: str = GIVEN_UP, outcome: Outcome = Outcome.RESET) -> None:
        """End both connections with a RST, dropping what is unsent."""
        if not self.closed:
            self.cut = outcome, reason
            for sock in (self._client, self._backend):
                reset_on_close(sock)
            self.finish()

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

    def on_events(self, direction: Direction, events: int) -> None:
        """Read and send, as the events of the source of `direction` allow."""
        self.ways.on_events(direction, events)

    def on_client(self, events: int) -> None:
        """What the poller calls with the events of the client's socket, until there are :attr:`ways`.

        A small message is moved right here: most requests run only these lines, and those of :meth:`on_backend`.
        Nothing waits meanwhile.
        """
        if events == A_MESSAGE:
            size = sent = 0
            try:
                size = self._client.recv_into(self._view)
                sent = self._backend.send(self._parts[size])
                if sent == size:
                    self.count_up += size
                    return
            except BlockingIOError:
                if not size:  # nothing has been read
                    return
            except NoMessageError:
                if not size:  # the FIN has come after the event
                    self._end_up(events)
                    return
            except OSError:
                self.fail()
                return
            self._take_turn(self.upward, events, size, sent)
        elif events in _ENDS:
            self._end_up(events)
        elif events != WRITABLE:  # else there is nothing to read, and nothing waits to be sent
            self._take_turn(self.upward, events, NOTHING_READ, 0)

    def on_backend(self, events: int) -> None:
        """The same with the events of the backend's."""
        if events == A_MESSAGE:
            size = sent = 0
            try:
                size = self._backend.recv_into(self._view)
                sent = self._client.send(self._parts[size])
                if sent == size:
                    self.count_down += size
                    return
            except BlockingIOError:
                if not size:
                    return
            except NoMessageError:
                if not size:
                    self._end_down(events)
                    return
            except OSError:
                self.fail()
                return
            self._take_turn(self.downward, events, size, sent)
        elif events in _ENDS:
            self._end_down(events)
        elif events != WRITABLE:
            self._take_turn(self.downward, events, NOTHING_READ, 0)

    def _end_up(self, events: int) -> None:
        """Pass on what the client has sent before its FIN, and the FIN."""
        size = sent = 0
        try:
            size = self._client.recv_into(self._view)
            if not size:
                if not self.ended_up:
                    self.ended_up = True
                    if self.ended_down:
                        self.finish()
                    else:
                        self._backend.shutdown(_SHUT_WR)
                        self.half_close()
                return
            sent = self._backend.send(self._parts[size])
            if sent == size:
                self.count_up += size
                self._end_up(events)  # nothing is left, but for the FIN
                return
        except (BlockingIOError, NoMessageError):
            if not size:
                return
        except OSError:
            self.fail()
            return
        self._take_turn(self.upward, events, size, sent)

    def _end_down(self, events: int) -> None:
        """The same of the backend's."""
        size = sent = 0
        try:
            size = self._backend.recv_into(self._view)
            if not size:
                if not self.ended_down:
                    self.ended_down = True
                    if self.ended_up:
                        self.finish_by_endpoint()
                    else:
                        self._client.shutdown(_SHUT_WR)
                        self.half_close()
                return
            sent = self._client.send(self._parts[size])
            if sent == size:
                self.count_down += size
                self._end_down(events)
                return
        except (BlockingIOError, NoMessageError):
            if not size:
                return
        except OSError:
            self.fail()
            return
        self._take_turn(self.downward, events, size, sent)

    def _take_turn(self, direction: Direction, events: int, size: int, sent: int) -> None:
        """Go on where this has left off: `size` bytes are in the shared buffer, of which `sent` are sent."""
        direction.begin_with(size, sent)
        self.ways.on_events(direction, events)

    def fail(self) -> None:
        """Handle the failure of a socket. What its peer sent before is passed on, as far as it goes at once."""
        self.ways.salvage()
        self.abort(self.who_reset())

    def who_reset(self) -> str:
        """Why a socket has failed, in words."""
        if was_reset(self._client):
            return RESET_BY_CLIENT
        return RESET_BY_ENDPOINT if was_reset(self._backend) else "a socket failed"

    def finish_by_endpoint(self) -> None:
        """Both directions have come to their end, the endpoint's after the client's."""
        if self.endpoint is not None and self.dial.source is not _CLIENT:
            # The backend got its FIN first, so it is our side that has gone to TIME_WAIT.
            ports, counters = self._context.source_ports, self.counters
            connections = counters.in_time_wait + 1
            if connections < ports.at_once:
                counters.in_time_wait = connections
            else:
                counters.in_time_wait = 0
                if ports.is_to_be_noted(self.endpoint, connections):
                    ports.note(self.endpoint, self._backend.getsockname()[1])
        self.finish()

    def half_close(self) -> None:
        """The first FIN has been passed on."""
        context = self._context
        limit = self._limit = context.closing
        now = context.poller.now
        if limit.timer is None or not now:
            limit.add(self)
        else:
            limit.deadlines[self] = now + limit.seconds  # as add() does, without the call
        if context.recorder.connection_watches:
            context.recorder.tell_change(ChangeKind.MODIFIED, self)

    def finish(self) -> None:
        """Close both sockets, which also sends the FIN, and pipes; whoever is to know is told."""
        self.closed = True
        context = self._context
        limit = self._limit
        if limit is not None:
            pop = limit.pop
            pop(self, None)
        if self._ways is not None:
            self._ways.release()
            self._let_go_of_ways()
        if context.shared:
            for sock in (self._client, self._backend):
                end_at_once(sock, reset=self.cut is not None)
        context.poller.close_both(self._client, self._backend)
        self._owner.relayed(self)

    def _let_go_of_ways(self) -> None:
        """They know this relay: without the cycle it is freed at once."""
        if self._ways is not None:
            self.count_up, self.count_down = self.moved
            self._ways = None


# What the poller calls with a relay and events: a method that is looked up at its class costs 150 instructions.
_ON_CLIENT: Final = Relay.on_client
_ON_BACKEND: Final = Relay.on_backend
