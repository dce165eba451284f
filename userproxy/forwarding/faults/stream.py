"""A TCP connection that suffers faults: its relay goes on, by ends of its sockets that hold bytes up."""

import asyncio
from collections.abc import Callable
from socket import SocketType
from typing import Final, cast

from userproxy.forwarding.faults.lane import Allowance, Lane, Quota
from userproxy.forwarding.faults.shape import Shape
from userproxy.forwarding.poller import ANOTHER_TURN, FAILED, WRITABLE, Poller
from userproxy.forwarding.tcp.direction import Direction
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.relays.context import RelayContext
from userproxy.forwarding.tcp.sockets import unacknowledged
from userproxy.model.reports import Outcome

_DELIVERY_SECONDS: Final = 0.01
_DELIVERY_LOOKS: Final = 100
"""For how many of those a reset waits for the last bytes to arrive."""


class FaultyEnd:
    """Has the methods of a socket that a relay uses; bytes go by `receives` and `sends`."""

    __slots__ = (
        "_closed",
        "fileno",
        "getsockname",
        "getsockopt",
        "real",
        "recv_into",
        "send",
        "setsockopt",
        "shutdown",
    )

    def __init__(self, real: SocketType, receives: Lane, sends: Lane, closed: Callable[[], None]) -> None:
        self.real = real
        self.recv_into = receives.recv_into
        self.send = sends.send
        self.shutdown = real.shutdown
        self.fileno = real.fileno
        self.getsockname = real.getsockname
        self.getsockopt = real.getsockopt
        self.setsockopt = real.setsockopt
        self._closed = closed

    def close(self) -> None:
        """As of the socket."""
        self._closed()
        self.real.close()


class FaultedRelay:
    """Makes a relay suffer what a `shape` says, until it ends or :meth:`lift` is called.

    `context` has no pipes, `whole` is the relay's own. `over` is called with the relay's id when it has ended.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        relay: Relay,
        shape: Shape,
        poller: Poller,
        contexts: tuple[RelayContext, RelayContext],
        quota: Quota,
        chance: Callable[[], float],
        over: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._relay = relay
        self._poller = poller
        self._whole, context = contexts
        self._over = over
        self.shape = shape
        self._allowance = Allowance(shape.reset_bytes)
        self._reset: asyncio.TimerHandle | None = None
        self._looks = 0
        client, backend = self._sockets = relay.sockets
        self._up = Lane(loop, shape.up, client, backend, self._due, quota, self._allowance, chance)
        self._down = Lane(loop, shape.down, backend, client, self._due, quota, self._allowance, chance)
        ends = (
            FaultyEnd(client, self._up, self._down, self._ended),
            FaultyEnd(backend, self._down, self._up, self._ended),
        )
        relay.go_by(cast("SocketType", ends[0]), cast("SocketType", ends[1]), context)
        if shape.reset_seconds is not None:
            self._reset = loop.call_later(shape.reset_seconds, self._cut)

    @property
    def member(self) -> Relay:
        """Who suffers."""
        return self._relay

    def watch(self) -> None:
        """Hear of the sockets' events before the relay does, which is watching them by now."""
        if not self._relay.closed:
            client, backend = self._sockets
            self._poller.replace(client.fileno(), self._on_client, self._relay)
            self._poller.replace(backend.fileno(), self._on_backend, self._relay)

    def start(self, events: int, header: bytes) -> None:
        """Begin the relay, as :meth:`Relay.start`."""
        self._relay.start(events, header)
        self.watch()
        self._look_at_allowance()

    def lift(self) -> None:
        """Let the connection go on as if there were no fault. What waits leaves at once."""
        relay = self._relay
        if relay.closed:
            return
        failed = self._up.failure or self._down.failure
        waiting = self._up.rest(), self._down.rest()
        self._ended()
        client, backend = self._sockets
        relay.go_by(client, backend, self._whole)
        self._poller.replace(client.fileno(), relay.upward.on_events, relay)
        self._poller.replace(backend.fileno(), relay.downward.on_events, relay)
        relay.upward.wait_with(waiting[0])
        relay.downward.wait_with(waiting[1])
        for direction in (relay.upward, relay.downward):
            if not relay.closed:
                relay.on_events(direction, WRITABLE | ANOTHER_TURN)
        if failed is not None and not relay.closed:
            relay.fail()

    def _on_client(self, events: int) -> None:
        self._on_events(events, self._up, self._down, self._relay.upward)

    def _on_backend(self, events: int) -> None:
        self._on_events(events, self._down, self._up, self._relay.downward)

    def _on_events(self, events: int, coming: Lane, going: Lane, direction: Direction) -> None:
        """Events of the socket that is the source of `coming` and the sink of `going`."""
        if events & WRITABLE:
            self._flush(going)
        if self._relay.closed:
            return
        if events & FAILED and coming.holds:
            coming.fail()
            events &= ~FAILED
        direction.on_events(events)
        self._look_at_allowance()

    def _due(self, lane: Lane) -> None:
        """Time has passed for what waits in a lane."""
        try:
            self._flush(lane)
            self._go_on(lane)
        except Exception as error:  # noqa: BLE001 -- the loop has other connections to care for
            self._poller.failed(self._relay, error)

    def _flush(self, lane: Lane) -> None:
        if self._relay.closed:
            return
        try:
            lane.flush()
        except OSError:
            self._relay.fail()
        else:
            self._look_at_allowance()

    def _go_on(self, lane: Lane) -> None:
        """Have the relay read and send on, if a lane has room again or its source has ended."""
        relay = self._relay
        if relay.closed:
            return
        direction, opposite = relay.upward, relay.downward
        if lane is self._down:
            direction, opposite = opposite, direction
        if lane.is_over:
            relay.on_events(direction, ANOTHER_TURN)
        elif direction.blocked and lane.room:
            relay.on_events(opposite, WRITABLE)

    def _look_at_allowance(self) -> None:
        """Reset the connection once all has arrived that may pass."""
        if self._allowance.left == 0 and not self._relay.closed and not self._looks:
            self._await_delivery()

    def _await_delivery(self) -> None:
        self._looks += 1
        if self._relay.closed:
            return
        if self._looks > _DELIVERY_LOOKS or not any(unacknowledged(each) for each in self._sockets):
            self._cut()
        else:
            if self._reset is not None:
                self._reset.cancel()
            self._reset = self._loop.call_later(_DELIVERY_SECONDS, self._await_delivery)

    def _cut(self) -> None:
        self._reset = None
        if not self._relay.closed:
            self._relay.abort(self.shape.text, Outcome.RESET)

    def _ended(self) -> None:
        """The relay has ended, or suffers no longer."""
        for lane in (self._up, self._down):
            lane.close()
        if self._reset is not None:
            self._reset.cancel()
            self._reset = None
        self._over(self._relay.id)
