"""Both ways of a relay in which more happens than small messages and the end: flow control, bulk, readers, faults."""

import errno
import socket
from socket import SocketType
from typing import TYPE_CHECKING

from userproxy.forwarding.poller import ANOTHER_TURN, FAILED, HANGUP, READABLE, WRITABLE
from userproxy.forwarding.tcp.direction import Direction, DirectionContext
from userproxy.forwarding.tcp.states import DirectionState
from userproxy.forwarding.tcp.tap import FROM_CLIENT, FROM_ENDPOINT, TO_CLIENT, TO_ENDPOINT, Listener, TappedSockets

if TYPE_CHECKING:
    from userproxy.forwarding.tcp.relay import Relay


class Ways:
    """The two directions of a relay, which it makes when it first needs them: most connections never do."""

    __slots__ = ("_relay", "downward", "upward")

    def __init__(self, relay: "Relay", context: DirectionContext, client: SocketType, backend: SocketType) -> None:
        self._relay = relay
        self.upward, self.downward = Direction(), Direction()
        self.upward.begin(self, context, client, backend)
        self.downward.begin(self, context, backend, client)

    def go_on(self, up: DirectionState, down: DirectionState, ends: tuple[int, ...] = ()) -> None:
        """Be as these say; `ends` are :attr:`pipe_ends` of them."""
        taken = 0
        for direction, its in ((self.upward, up), (self.downward, down)):
            pair = (ends[taken], ends[taken + 1]) if its.fill else None
            taken += 2 if its.fill else 0
            direction.restore(its, pair)
        self.upward.usual = self.downward.usual = self.upward.is_usual and self.downward.is_usual

    def send_first(self, header: bytes) -> None:
        """Send `header` to the backend before all else. Raises OSError."""
        self.upward.send_first(header)
        self.upward.usual = self.downward.usual = not self.upward.blocked

    @property
    def pipe_ends(self) -> tuple[int, ...]:
        """Descriptors of the pipes in which bytes wait: two for the way up and two for the way down, if there are."""
        pipes = (self.upward.pipe, self.downward.pipe)
        return tuple(end for pipe in pipes if pipe is not None for end in (pipe.read_end, pipe.write_end))

    def on_events(self, direction: Direction, events: int, *, put_off: bool = False) -> None:
        """Read and send, as the events of the source of `direction` allow. It is the sink of the opposite one.

        In a connection that moves much they are put off, once, until other connections have had their turn.
        """
        relay = self._relay
        if relay.closed:
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
            if events & FAILED and not relay.closed and not (direction is self.downward and self._has_been_told()):
                relay.abort(relay.who_reset())
        except OSError:
            relay.fail()
        # Both are usual, without the calls: this is done for every end of a connection.
        direction.usual = opposite.usual = not (
            direction.ended
            or opposite.ended
            or direction.blocked
            or opposite.blocked
            or direction.bulk
            or opposite.bulk
            or relay.closed
        )

    def _has_been_told(self) -> bool:
        """Whether an endpoint's RST came after its FIN: what it had to say is here, and goes on to the client.

        So does the kernel of an endpoint that has closed a minute ago answer a keep-alive of ours (tcp_fin_timeout),
        while a slow client still has much to read.
        """
        backend = self._relay.sockets[1]
        return backend.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE  # tcp_reset() in the kernel

    def fail(self) -> None:
        """Handle the failure of a socket."""
        self._relay.fail()

    def abort(self) -> None:
        """End the connection with a RST: a bug has come up."""
        self._relay.abort()

    def tap(self, client: SocketType, backend: SocketType, listener: Listener, context: DirectionContext) -> None:
        """Tell `listener` what passes from now on, in a context without pipes."""
        self.upward.tap(TappedSockets(client, backend, listener, FROM_CLIENT, TO_ENDPOINT), context)
        self.downward.tap(TappedSockets(backend, client, listener, FROM_ENDPOINT, TO_CLIENT), context)

    def untap(self, client: SocketType, backend: SocketType, context: DirectionContext) -> None:
        """Tell nobody any more."""
        self.upward.untap(client, backend, context)
        self.downward.untap(backend, client, context)

    def go_by(self, client: SocketType, backend: SocketType, context: DirectionContext) -> None:
        """Go on by other ends of the same sockets."""
        self.upward.go_by(client, backend, context)
        self.downward.go_by(backend, client, context)

    def salvage(self) -> None:
        """Move what can still be read after a failure."""
        self.upward.salvage()
        self.downward.salvage()

    def forsake(self) -> None:
        """Close our copies of the pipes: what is in them is another process's."""
        self.upward.forsake()
        self.downward.forsake()

    def release(self) -> None:
        """Give pipes back and drop what is unsent."""
        for direction in (self.upward, self.downward):
            if direction.bulk or direction.blocked:  # otherwise it has no pipe, and nothing waits
                direction.release()

    def _pump(self, direction: Direction, opposite: Direction, events: int) -> None:
        if direction.pump(events):
            direction.put_off(ANOTHER_TURN)
        elif direction.ended:
            self._end(direction, opposite)

    def _end(self, direction: Direction, opposite: Direction) -> None:
        """Pass a FIN on. Raises OSError where that socket has failed."""
        relay = self._relay
        if not opposite.ended:
            direction.half_close()
            relay.half_close()
        elif direction is self.downward:
            relay.finish_by_endpoint()
        else:
            relay.finish()
