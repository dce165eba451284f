"""A UDP flow that suffers faults: its datagrams come later, or are lost."""

import asyncio
import errno
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from userproxy.forwarding.failures import HandlerFailures
from userproxy.forwarding.faults.lane import MOST_BYTES as MOST_WAITING
from userproxy.forwarding.faults.lane import Quota
from userproxy.forwarding.faults.schedule import Schedule
from userproxy.forwarding.faults.shape import Shape, Way
from userproxy.forwarding.udp.flow import UdpFlow

MOST_DATAGRAMS: Final = 1024
"""That wait on one way of a flow; further ones are lost."""

MOST_BYTES: Final = 1 << 20
_DATAGRAM_BYTES: Final = 200
"""What a datagram that waits takes beside its bytes, about."""

_EARLY_SECONDS: Final = 0.0005


class Path:
    """One way of a flow. `leave` is called with each datagram when its time has come."""

    __slots__ = ("_bytes", "_chance", "_failures", "_leave", "_loop", "_queue", "_quota", "_schedule", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        way: Way,
        leave: Callable[[bytes], None],
        quota: Quota,
        chance: Callable[[], float],
        failures: HandlerFailures,
    ) -> None:
        self._loop = loop
        self._quota = quota
        self._schedule = Schedule(way)
        self._leave = leave
        self._chance = chance
        self._failures = failures
        self._queue: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_at_once(self) -> bool:
        """Whether what is not lost passes without delay."""
        return self._schedule.way.seconds <= 0 and not self._queue

    def loses(self) -> bool:
        """Whether the next datagram is lost."""
        loss = self._schedule.way.loss
        return loss > 0 and self._chance() < loss

    def put(self, data: bytes) -> None:
        """Have a datagram leave when its time comes, unless too many wait."""
        size = len(data) + _DATAGRAM_BYTES
        room = min(MOST_BYTES - self._bytes, MOST_WAITING - self._quota.used)
        if len(self._queue) >= MOST_DATAGRAMS or size > room:
            return
        self._queue.append((self._schedule.due(len(data), time.monotonic(), self._chance()), data))
        self._bytes += size
        self._quota.used += size
        self._wait()

    def close(self, *, leave: bool = False) -> None:
        """Let what waits go at once, or lose it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        queue, self._queue = self._queue, deque()
        self._quota.used -= self._bytes
        self._bytes = 0
        for _, data in queue if leave else ():
            self._leave(data)

    def _wait(self) -> None:
        if self._queue and self._timer is None:
            self._timer = self._loop.call_at(self._queue[0][0], self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic() + _EARLY_SECONDS
        try:
            while self._queue and self._queue[0][0] <= now:
                _, data = self._queue.popleft()
                self._bytes -= len(data) + _DATAGRAM_BYTES
                self._quota.used -= len(data) + _DATAGRAM_BYTES
                self._leave(data)
        except Exception as error:  # noqa: BLE001 -- the loop has others to care for
            self._failures.note(error)
        self._wait()


class FaultedFlow:
    """Makes a flow suffer what a `shape` says, until it ends, moves or :meth:`lift` is called."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        flow: UdpFlow,
        shape: Shape,
        quota: Quota,
        chance: Callable[[], float],
        failures: HandlerFailures,
    ) -> None:
        self.flow = flow
        self.shape = shape
        self._send, self._receive_into = flow.send, flow.receive_into
        self._up = Path(loop, shape.up, self._leave_up, quota, chance, failures)
        self._down = Path(loop, shape.down, flow.answer, quota, chance, failures)
        flow.tap(self._suffer_send, self._suffer_receive)

    @property
    def member(self) -> UdpFlow:
        """Who suffers."""
        return self.flow

    def close(self) -> None:
        """The flow has ended, or has gone to another socket: what waits is lost."""
        self._up.close()
        self._down.close()

    def lift(self) -> None:
        """Let the flow go on as if there were no fault. What waits leaves at once."""
        self.flow.untap()
        self._up.close(leave=True)
        self._down.close(leave=True)

    def _suffer_send(self, data: bytes | memoryview) -> int:
        if self._up.loses():
            return len(data)
        if self._up.is_at_once:
            return self._send(data)
        self._up.put(bytes(data))
        return len(data)

    def _suffer_receive(self, view: memoryview) -> int:
        size = self._receive_into(view)
        if self._down.loses():
            raise BlockingIOError(errno.EAGAIN, "the datagram is lost")
        if self._down.is_at_once:
            return size
        self._down.put(bytes(view[:size]))
        raise BlockingIOError(errno.EAGAIN, "the datagram comes later")

    def _leave_up(self, data: bytes) -> None:
        with suppress(OSError):  # an error of before is told of by the socket's events, too
            self._send(data)
