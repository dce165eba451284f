"""One way of a faulted connection: bytes wait here, in bounded number, until they may leave."""

import asyncio
import errno
import time
from collections import deque
from collections.abc import Callable
from socket import SocketType
from typing import Final

from userproxy.forwarding.faults.schedule import SLICES_PER_SECOND, Schedule
from userproxy.forwarding.faults.shape import Way
from userproxy.forwarding.tcp.direction import BUFFER_BYTES
from userproxy.forwarding.tcp.pipes import PIPE_BYTES

MOST_BYTES: Final = 64 << 20
"""That wait in all lanes of a process; beyond it each lane has the room of a buffer alone."""

MOST_PIECES: Final = 1000
"""That wait in a lane of a certain rate besides those on their way: each takes some 200 bytes, whatever is in it."""

_LATE_SECONDS: Final = 0.25
"""For so long this process may have done something else while bytes waited that a link of a certain rate could have
taken: they leave as if they had come in time."""

_EARLY_SECONDS: Final = 0.0005
"""Half of a timer's resolution."""


class Quota:
    """How many bytes wait in all lanes."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class Allowance:
    """How many bytes may still pass of a connection; None for any number."""

    __slots__ = ("left",)

    def __init__(self, left: int | None) -> None:
        self.left = left


class Lane:
    """What has come from `source` waits here until it may go to `sink`, in the manner of a `way`.

    `due` is called when something is to be done because time has passed: :meth:`flush`, and what follows from it.
    `chance` gives numbers from 0 to 1.
    """

    __slots__ = (
        "_allowance",
        "_chance",
        "_due",
        "_error",
        "_is_finishing",
        "_is_stuck",
        "_left_some",
        "_limit",
        "_loop",
        "_queue",
        "_quota",
        "_schedule",
        "_timer",
        "is_over",
        "sink",
        "size",
        "source",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        way: Way,
        source: SocketType,
        sink: SocketType,
        due: "Callable[[Lane], None]",
        quota: Quota,
        allowance: Allowance,
        chance: Callable[[], float],
    ) -> None:
        self._loop = loop
        self.source = source
        self.sink = sink
        self._schedule = Schedule(way)
        self._due = due
        self._quota = quota
        self._allowance = allowance
        self._chance = chance
        self._limit = _limit(way)
        self._queue: deque[tuple[float, memoryview | None]] = deque()
        """When each piece may leave; without bytes it is the end."""
        self.size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_stuck = False
        """The sink has taken less than it was given: it will say when it takes more."""
        self._is_finishing = False
        self._left_some = False
        """There was no room for all that was to be sent: the rest has waited since then."""
        self._error: OSError | None = None
        self.is_over = False
        """All has left that there will be."""

    @property
    def holds(self) -> bool:
        """Whether what the source says now is to be heard later."""
        way = self._schedule.way
        return bool(self._queue) or way.seconds > 0 or way.blocked

    @property
    def room(self) -> int:
        """How many bytes it takes now."""
        if self._schedule.way.blocked or self._is_finishing:
            return 0
        limit = self._limit if self._quota.used < MOST_BYTES else BUFFER_BYTES
        return max(0, limit - self.size)

    def recv_into(self, view: memoryview) -> int:
        """As of the source, but that its end comes as late as its bytes do."""
        if self.is_over:
            if self._error is not None:
                raise self._error
            return 0
        if self._schedule.way.blocked or self._is_finishing:
            raise BlockingIOError
        try:
            size = self.source.recv_into(view)
        except BlockingIOError:
            raise
        except OSError as error:
            if not self.holds:
                raise
            self.finish(error)
            raise BlockingIOError from error
        if not size and self.holds:
            self.finish(None)
            raise BlockingIOError
        return size

    def send(self, data: memoryview) -> int:
        """As of the sink: how many bytes are taken. Raises OSError as that."""
        now, size = time.monotonic(), 0
        since = now - _LATE_SECONDS if self._left_some else now
        while size < len(data) and (room := self.room):  # what is due at once makes room for more
            self._take(memoryview(bytes(data[size : size + room])), now, since)
            size += min(room, len(data) - size)
            if not self._is_stuck and self._timer is None:
                self.flush()
        self._left_some = size < len(data)
        if not size:
            raise BlockingIOError
        return size

    def _take(self, data: memoryview, now: float, since: float) -> None:
        for piece in self._schedule.pieces(data):
            self._queue.append((self._schedule.due(len(piece), now, self._chance(), since), piece))
        self.size += len(data)
        self._quota.used += len(data)

    def finish(self, error: OSError | None) -> None:
        """The source has ended, or has failed: that is to be heard after its bytes."""
        if not self._is_finishing:
            self._is_finishing = True
            self._error = error
            self._queue.append((self._schedule.due(0, time.monotonic(), self._chance()), None))
            self._wait()

    def fail(self) -> None:
        """The source's connection was reset."""
        self.finish(ConnectionResetError(errno.ECONNRESET, "the connection was reset"))

    def flush(self) -> None:
        """Send what may leave by now. Raises OSError where the sink has failed."""
        self._is_stuck = False
        now, queue = time.monotonic() + _EARLY_SECONDS, self._queue
        while queue and queue[0][0] <= now and not self._schedule.way.blocked:
            due, data = queue[0]
            if data is None:
                self.is_over = True
                queue.clear()
                return
            if self._allowance.left == 0:
                return
            try:
                sent = self.sink.send(data if self._allowance.left is None else data[: self._allowance.left])
            except BlockingIOError:
                self._is_stuck = True
                return
            self._left(due, data, sent)
        self._wait()

    def rest(self) -> bytes:
        """What waits here, which is then nobody's: it is taken out."""
        found = b"".join(data for _, data in self._queue if data is not None)
        self.close()
        return found

    @property
    def failure(self) -> OSError | None:
        """How the source has failed, if that is still to be heard."""
        return self._error

    def close(self) -> None:
        """Forget what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._quota.used -= self.size
        self.size = 0
        self._queue.clear()

    def _left(self, due: float, data: memoryview, sent: int) -> None:
        self.size -= sent
        self._quota.used -= sent
        if self._allowance.left is not None:
            self._allowance.left -= sent
        if sent == len(data):
            self._queue.popleft()
        else:
            self._queue[0] = due, data[sent:]

    def _wait(self) -> None:
        if self._queue and self._timer is None and not self._is_stuck:
            self._timer = self._loop.call_at(self._queue[0][0], self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._due(self)


def _limit(way: Way) -> int:
    """How many bytes may wait: a buffer, or with a latency what is on its way at the rate, a pipe at most."""
    seconds = way.seconds + way.jitter
    if way.rate is not None:
        most = (MOST_PIECES + int(SLICES_PER_SECOND * seconds)) * (Schedule(way).piece or 1)
        return min(PIPE_BYTES, most, max(BUFFER_BYTES, int(way.rate * seconds)))
    return PIPE_BYTES if seconds else BUFFER_BYTES
