"""Captures: readers of the bytes of connections and flows. What nobody captures is moved as if there were none of this.

A connection that is to be captured gets other functions to receive and send with when it begins, and its own again when
the last capture that it is part of ends.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from userproxy.forwarding.observation.reasons import RESET_BY_CLIENT, RESET_BY_ENDPOINT
from userproxy.forwarding.observation.recorder import Entry, Observed, Recorder
from userproxy.forwarding.observation.reports import (
    asks_for_decision,
    asks_for_member,
    listener_of,
    portal_address,
)
from userproxy.forwarding.observation.taps import Subscription, Tap
from userproxy.forwarding.tcp.direction import DirectionContext
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.tap import FROM_CLIENT, FROM_ENDPOINT, NoPipes, Point
from userproxy.forwarding.udp.datagrams import address_written_to
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.model.capture import CAPTURE_ROOM, CaptureEvent, CaptureRequest, Ended, Opened, Segment, SegmentKind
from userproxy.model.cluster import Protocol
from userproxy.model.reports import Attempt, Batch, ChangeKind, Outcome, SocketAddress
from userproxy.pace import Pace

_BATCH_BYTES: Final = 1024 * 1024
"""What a reader is given at a time, roughly."""

_EVENT_BYTES: Final = 300
"""What an event takes beside its data, roughly."""

_UNKNOWN: Final = SocketAddress("0.0.0.0", 0)

_RESETTERS: Final[dict[str, Point]] = {RESET_BY_CLIENT: FROM_CLIENT, RESET_BY_ENDPOINT: FROM_ENDPOINT}


class Captures:
    """All captures of a process, and what they have tapped."""

    def __init__(self, recorder: Recorder, context: DirectionContext) -> None:
        self.recorder = recorder
        self._context = context
        self._without_pipes: DirectionContext | None = None
        self._taps: dict[int, tuple[Tap, Relay | UdpFlow]] = {}

    @asynccontextmanager
    async def read(
        self, request: CaptureRequest, open_already: Iterable[Relay | UdpFlow], room: int = CAPTURE_ROOM
    ) -> AsyncIterator["CaptureReader"]:
        """A capture until the context is left. `open_already` may be part of it, if they are asked for."""
        reader = CaptureReader(self, request, room)
        self.recorder.connection_watches.append(reader)
        self.recorder.decision_watches.append(reader.endings)
        try:
            if request.connections is None:
                pace = Pace()
                for member in open_already:
                    reader.join(member)
                    await pace.keep()
            yield reader
        finally:
            self.recorder.connection_watches.remove(reader)
            self.recorder.decision_watches.remove(reader.endings)
            await self._leave(reader)

    def subscribe(self, member: Relay | UdpFlow, subscription: Subscription) -> None:
        """Tell of a connection that has just begun, or is open."""
        tap, _ = self._taps.get(member.id) or (None, member)
        if tap is None:
            tap = Tap(self.recorder.clock)
            self._taps[member.id] = tap, member
            self.attach(member)
        tap.subscriptions.append(subscription)

    def attach(self, member: Relay | UdpFlow) -> None:
        """Lead the bytes of a connection past its tap, again if it is a flow that has moved."""
        tap, _ = self._taps[member.id]
        if isinstance(member, UdpFlow):
            tap.flow(member)
            return
        if self._without_pipes is None:
            self._without_pipes = DirectionContext(self._context.poller, NoPipes(self._context.pipes))
        member.tap(tap, self._without_pipes)

    def forget(self, number: int) -> None:
        """A connection has ended."""
        self._taps.pop(number, None)

    async def _leave(self, reader: "CaptureReader") -> None:
        reader.close()
        pace = Pace()
        while reader.subscriptions:
            number, subscription = reader.subscriptions.popitem()
            if number in self._taps:  # else it has ended meanwhile
                tap, member = self._taps[number]
                tap.subscriptions.remove(subscription)
                if not tap.subscriptions:
                    del self._taps[number]
                    member.untap()
            await pace.keep()
        if not self._taps:
            self._without_pipes = None


class CaptureReader:
    """One capture, and a :class:`~userproxy.forwarding.observation.recorder.ConnectionWatch`."""

    def __init__(self, captures: Captures, request: CaptureRequest, room: int) -> None:
        self._captures = captures
        self._request = request
        self._room = room
        self._size = 0
        self._waiting: deque[tuple[CaptureEvent, int]] = deque()
        self._data = b""
        self._is_waiting = asyncio.Event()
        self._taken = 0
        # One difference for all times of a capture, so that their order stays.
        self._difference = time.time() - captures.recorder.clock()
        self.subscriptions: dict[int, Subscription] = {}
        self.endings = _Endings(self)
        self.lost = 0

    def tell(self, kind: ChangeKind, connection: Observed) -> None:
        """A connection or flow is new, has gone on, or is about to end."""
        if isinstance(connection, Relay):
            if kind is ChangeKind.MODIFIED and not connection.half_closed:
                self.join(connection, whole=True)
        elif isinstance(connection, UdpFlow):
            subscription = self.subscriptions.get(connection.id)
            if subscription is None:
                if kind is ChangeKind.ADDED:
                    self.join(connection, whole=True)
            elif kind is ChangeKind.REMOVED:
                subscription.is_over = True
            else:
                self._captures.attach(connection)
                self.put(self._opened(connection, whole=True))

    def join(self, member: Relay | UdpFlow, *, whole: bool = False) -> None:
        """Make a connection or flow part of the capture, if that is asked for and there is not yet enough."""
        if (
            self._is_enough()
            or member.id in self.subscriptions
            or not self._request.query.admits_listener(listener_of(member))
            or not asks_for_member(self._request.query, member)
        ):
            return
        self._taken += 1
        subscription = Subscription(self, member.id, self._request.payload_bytes)
        self.subscriptions[member.id] = subscription
        self.put(self._opened(member, whole=whole))
        self._captures.subscribe(member, subscription)

    def ended(self, entry: Entry) -> None:
        """A decision about a connection: mostly, how it has ended."""
        at, name, _, _, endpoint, verdict, reason, _, seconds, up, down, _, number = entry
        if verdict is Outcome.RETRIED:
            return
        subscription = self.subscriptions.get(number)
        if subscription is None:
            if endpoint is None and number and name.service_port.protocol is Protocol.TCP:
                self._refused(entry)
            return
        if name.service_port.protocol is Protocol.UDP and not subscription.is_over:
            return
        self._captures.forget(number)
        del self.subscriptions[number]
        if reason in _RESETTERS:
            subscription.put(_RESETTERS[reason], at, SegmentKind.RST)
        self.put(Ended(number, self.unix_time(at), verdict, reason, seconds, up, down))

    def put(self, event: CaptureEvent) -> None:
        """Have an event wait to be read, unless too much waits already."""
        size = _EVENT_BYTES
        if isinstance(event, Segment) and event.data is not self._data:
            self._data = event.data  # the other leg has the same bytes
            size += len(event.data)
        if self.lost or self._size + size > self._room:
            self.lost += 1
        else:
            self._size += size
            self._waiting.append((event, size))
        self._is_waiting.set()

    async def read(self) -> Batch[CaptureEvent]:
        """See :class:`~userproxy.model.data_plane.Watch`."""
        await self._is_waiting.wait()
        events: list[CaptureEvent] = []
        taken = 0
        while self._waiting and taken < _BATCH_BYTES:
            event, size = self._waiting.popleft()
            events.append(event)
            taken += size
        self._size -= taken
        if self._waiting:
            return Batch(tuple(events))
        self._data = b""
        self._is_waiting.clear()
        return Batch(tuple(events), self.lost)

    def close(self) -> None:
        """Take no more events."""
        self._room = 0
        self._waiting.clear()

    def unix_time(self, moment: float) -> float:
        """The Unix time of a moment on the clock."""
        return self._difference + moment

    def _is_enough(self) -> bool:
        return self.lost > 0 or (self._request.connections is not None and self._taken >= self._request.connections)

    def _opened(self, member: Relay | UdpFlow, *, whole: bool) -> Opened:
        begun, failed, portal = self.unix_time(member.opened), member.failed, portal_address(member.portal)
        if isinstance(member, Relay):
            dialed, connected = self.unix_time(member.dial.began), self.unix_time(member.opened + member.dial_seconds)
        else:
            dialed = connected = begun
            family = member.listener.name.family
            # The kernel may have translated it: then this is where it came to, and nobody here knows from where.
            portal = portal or SocketAddress(address_written_to(member.addressee, family), member.listener.port)
        return Opened(
            connection=member.id,
            listener=listener_of(member),
            client=SocketAddress(*member.peer[:2]),
            portal=portal or _UNKNOWN,
            node=SocketAddress(*member.node),
            endpoint=member.endpoint,
            accepted=begun,
            dialed=dialed,
            connected=connected,
            whole=whole,
            tried=tuple(Attempt(endpoint, words) for endpoint, words, _ in failed),
        )

    def _refused(self, entry: Entry) -> None:
        """A client whom no endpoint has served."""
        at, name, peer, portal, _, verdict, reason, failed, seconds, _, _, _, number = entry
        if self._is_enough() or not asks_for_decision(self._request.query, entry):
            return
        self._taken += 1
        begun, tried = self.unix_time(at - seconds), tuple(Attempt(endpoint, words) for endpoint, words, _ in failed)
        client, dialed = SocketAddress(*peer[:2]), portal_address(portal) or _UNKNOWN
        self.put(Opened(number, name, client, dialed, None, None, begun, begun, begun, tried=tried))
        self.put(Ended(number, self.unix_time(at), verdict, reason, seconds))


class _Endings:
    """Tells a capture of decisions, as a :class:`~userproxy.forwarding.observation.recorder.DecisionWatch`."""

    def __init__(self, reader: CaptureReader) -> None:
        self._reader = reader

    def tell(self, entry: Entry) -> None:
        """See :class:`~userproxy.forwarding.observation.recorder.DecisionWatch`."""
        self._reader.ended(entry)
