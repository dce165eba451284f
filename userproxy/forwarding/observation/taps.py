"""Who is told what passes on one captured connection or flow: each capture that it is part of."""

from collections.abc import Callable
from typing import Final, Protocol

from userproxy.forwarding.tcp.tap import FROM_CLIENT, FROM_ENDPOINT, TO_CLIENT, TO_ENDPOINT, Point
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.model.capture import CaptureEvent, Segment, SegmentKind

_ALL: Final = 1 << 62


class Reader(Protocol):
    """A capture."""

    lost: int

    def put(self, event: CaptureEvent) -> None:
        """Have an event wait to be read."""

    def unix_time(self, moment: float) -> float:
        """The Unix time of a moment on the clock."""


class Subscription:
    """What one capture wants of one connection: at most `limit` bytes of each direction, None for all."""

    __slots__ = ("_left", "_number", "is_over", "reader")

    def __init__(self, reader: Reader, number: int, limit: int | None) -> None:
        self._number = number
        left = _ALL if limit is None else limit
        self._left = dict.fromkeys((FROM_CLIENT, TO_ENDPOINT, FROM_ENDPOINT, TO_CLIENT), left)
        self.reader = reader
        self.is_over = False
        """The flow is about to end."""

    def wants(self, point: Point) -> bool:
        """Whether there is to be more."""
        return self._left[point] > 0 and not self.reader.lost

    def put(self, point: Point, time: float, kind: SegmentKind, data: bytes = b"", size: int = 0) -> None:
        """Something has passed."""
        data = data[: self._left[point]]
        self._left[point] -= len(data)
        self.reader.put(Segment(self._number, self.reader.unix_time(time), *point, kind, data, size))


class Tap:
    """Tells the subscriptions of a connection or flow what passes there."""

    __slots__ = ("_clock", "failed", "subscriptions")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.subscriptions: list[Subscription] = []
        self.failed = False

    def wants(self, point: Point) -> bool:
        """See :class:`~userproxy.forwarding.tcp.tap.Listener`."""
        return any(subscription.wants(point) for subscription in self.subscriptions)

    def passed(self, point: Point, data: bytes, size: int) -> None:
        """See :class:`~userproxy.forwarding.tcp.tap.Listener`."""
        now = self._clock()
        for subscription in self.subscriptions:
            subscription.put(point, now, SegmentKind.DATA, data, size)

    def finished(self, point: Point) -> None:
        """See :class:`~userproxy.forwarding.tcp.tap.Listener`."""
        now = self._clock()
        for subscription in self.subscriptions:
            subscription.put(point, now, SegmentKind.FIN)

    def flow(self, flow: UdpFlow) -> None:
        """Tell what passes on a flow from now on, until it ends or moves to another endpoint."""
        send, receive_into = flow.send, flow.receive_into

        def tapped_send(data: bytes | memoryview) -> int:
            size = send(data)
            # One that is sent again, because another endpoint did not answer it, did not come again from the client.
            again = data is flow.unanswered
            copy = bytes(data) if self.wants(FROM_CLIENT) or self.wants(TO_ENDPOINT) else b""
            if not again:
                self.passed(FROM_CLIENT, copy, len(data))
            self.passed(TO_ENDPOINT, copy, len(data))
            return size

        def tapped_receive_into(view: memoryview) -> int:
            size = receive_into(view)
            copy = bytes(view[:size]) if self.wants(FROM_ENDPOINT) or self.wants(TO_CLIENT) else b""
            self.passed(FROM_ENDPOINT, copy, size)
            self.passed(TO_CLIENT, copy, size)
            return size

        flow.tap(tapped_send, tapped_receive_into)
