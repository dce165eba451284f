"""What stands between a direction of a relay and its sockets while the connection is captured: it tells what passes."""

from socket import SocketType
from typing import Final, Protocol, TypeAlias

from userproxy.forwarding.tcp.pipes import Pipe, PipePool
from userproxy.model.capture import Leg

Point: TypeAlias = tuple[Leg, bool]
"""Where something passes: on which leg, and whether it is on its way up, to the endpoint."""

FROM_CLIENT: Final[Point] = (Leg.CLIENT, True)
TO_ENDPOINT: Final[Point] = (Leg.BACKEND, True)
FROM_ENDPOINT: Final[Point] = (Leg.BACKEND, False)
TO_CLIENT: Final[Point] = (Leg.CLIENT, False)


class Listener(Protocol):
    """Who is told what passes. `failed` is set when a socket has failed: what looks like a FIN then is none."""

    failed: bool

    def wants(self, point: Point) -> bool:
        """Whether the bytes that pass at a point are still wanted, or only how many they are."""

    def passed(self, point: Point, data: bytes, size: int) -> None:
        """So many bytes have passed; `data` is empty if they are not wanted."""

    def finished(self, point: Point) -> None:
        """A FIN has passed."""


class TappedSockets:
    """Has the methods of two sockets that a direction uses, and tells what they moved. Bytes are copied once."""

    __slots__ = ("_from", "_listener", "_received", "_recv_into", "_send", "_shutdown", "_to", "fileno")

    def __init__(
        self, source: SocketType, sink: SocketType, listener: Listener, received_at: Point, sent_at: Point
    ) -> None:
        self._recv_into = source.recv_into
        self._send = sink.send
        self._shutdown = sink.shutdown
        self._listener = listener
        self._from = received_at
        self._to = sent_at
        self._received = b""
        """What was received last, until something is sent: that begins with it."""
        self.fileno = sink.fileno

    def go_by(self, source: SocketType, sink: SocketType) -> None:
        """Use other ends of the same sockets."""
        self._recv_into, self._send, self._shutdown = source.recv_into, sink.send, sink.shutdown

    def recv_into(self, view: memoryview) -> int:
        """As of the source."""
        try:
            size = self._recv_into(view)
        except BlockingIOError:
            raise
        except OSError:
            self._listener.failed = True
            raise
        if size:
            self._received = bytes(view[:size]) if self._listener.wants(self._from) else b""
            self._listener.passed(self._from, self._received, size)
        elif not self._listener.failed:
            self._listener.finished(self._from)
        return size

    def send(self, data: memoryview) -> int:
        """As of the sink."""
        try:
            size = self._send(data)
        except BlockingIOError:
            raise
        except OSError:
            self._listener.failed = True
            raise
        received, self._received = self._received, b""
        if not self._listener.wants(self._to):
            received = b""
        elif size != len(received) or len(data) != size:
            received = bytes(data[:size])
        self._listener.passed(self._to, received, size)
        return size

    def shutdown(self, how: int) -> None:
        """As of the sink."""
        self._shutdown(how)
        self._listener.finished(self._to)


class NoPipes(PipePool):
    """Lends none, so that directions copy: what splice(2) moves nobody sees."""

    def __init__(self, pool: PipePool) -> None:
        self._pool = pool

    def borrow(self) -> Pipe | None:
        """None."""
        return None

    def let_go(self, count: int) -> None:
        """As of the pool that has lent a pipe before."""
        self._pool.let_go(count)
