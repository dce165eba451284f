"""Lets clients of a service port in as far as its limits allow. Who may not come in waits in the kernel's queue.

It is asked before a client is accepted and told when a connection begins and ends. How long a client has waited is
known only once it is accepted, so the one who is next is accepted when its time may be over, and waits here.
"""

import asyncio
from typing import Final, Protocol

from userproxy.forwarding.limits.bucket import Bucket
from userproxy.forwarding.limits.counts import Column
from userproxy.model import Limits, ListenerName, Overflow

_LOOK_SECONDS: Final = 0.01
"""How often to look whether another process has room made, while somebody waits."""

_AT_FULL_PACE: Final = 16
"""So many gates of a process look as often; each look takes some 50 us. Where there are more, all look less often."""

_NEVER: Final = float("inf")


class Listener(Protocol):
    """What clients come to."""

    name: ListenerName

    @property
    def queued(self) -> int:
        """How many clients wait in the kernel's queue."""

    @property
    def holds(self) -> int:
        """How many clients are accepted and not served."""

    @property
    def somebody_waits(self) -> bool:
        """Whether there is a client, accepted or not."""

    def resume(self) -> None:
        """Accept clients as far as they may come in."""

    def expire_waiting(self, seconds: float, reason: str) -> float | None:
        """Refuse clients who have waited for so long; how long the next one may wait yet, None if there is none."""


class Counted(Protocol):
    """What counts a service port's connections in this process."""

    count: int


class Gate:
    """That of one service port, for all its listeners in this process.

    Clients wait for `patience` seconds at most. Others of `processes` have clients, too: `column` is where numbers are
    exchanged with them, and all keep to the limits together; without one each process has its part of what may be.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        counted: Counted,
        limits: Limits,
        patience: float,
        processes: int = 1,
        column: Column | None = None,
    ) -> None:
        self._loop = loop
        self._counted = counted
        self._patience = patience
        self._processes = processes
        self._waiting: dict[Listener, float] = {}
        """Listeners whose clients wait, and since when they do."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = _NEVER
        """When the timer is set to: uvloop's handle of one that is due at once has no `when`."""
        self._settling = False
        self._lacks_token = False
        """Whether it was the rate that left no room when somebody last wanted to come in."""
        self._bucket: Bucket | None = None
        self._limit: int | None = None
        self._column = column
        self.looking: set[Gate] = set()
        """All gates of the process that look whether another process has made room."""
        self.limits = Limits()
        self.follow(limits, column)

    def follow(self, limits: Limits, column: Column | None) -> None:
        """Apply other limits from now on. Connections that there are stay."""
        if limits.rate != self.limits.rate or column is not self._column:
            self._bucket = self._bucket_of(limits.rate, column)
        limit = limits.connections
        if limit is not None and column is None:
            limit = max(1, limit // self._processes)
        self._limit, self._column, self.limits = limit, column, limits
        self._write()
        self._open_soon()

    def _bucket_of(self, rate: float | None, column: Column | None) -> Bucket | None:
        if rate is None:
            return None
        return Bucket(rate / self._processes) if column is None else Bucket(rate, column)

    def open(self) -> None:
        """There are no limits any more: all who wait come in, and the service port has no use for this gate."""
        self._limit, self._bucket, self._column = None, None, None
        self.looking.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        for listener in waiting:
            self._loop.call_soon(listener.resume)

    def waiting_at(self, name: ListenerName) -> tuple[int, int]:
        """How many clients of a listener wait, at all its sockets: accepted ones, and those in the kernel's queue."""
        its = [each for each in self._waiting if each.name == name]
        return sum(each.holds for each in its), sum(each.queued for each in its)

    def forget(self, listener: Listener) -> None:
        """A listener has closed."""
        self._waits_no_longer(listener)

    def may_accept(self, listener: Listener) -> bool:
        """Whether a listener may accept a client now, or serve one that it holds. If not it is called when it may."""
        if self.limits.overflow is Overflow.REFUSE or self._has_room(is_first=bool(listener.holds)):
            if self._waiting:
                self._waits_no_longer(listener)
            return True
        self._wait(listener)
        return False

    def admit(self) -> str:
        """Let a client in that was accepted: empty, or a clause that says why it is refused."""
        refuses, column = self.limits.overflow is Overflow.REFUSE, self._column
        if refuses and column is not None:
            with column.lock:  # else two who come for the last place at the same time would both be refused
                return self._admit(refuses=True)
        return self._admit(refuses=refuses)

    def _admit(self, *, refuses: bool) -> str:
        if refuses and not self._has_room(is_first=True):
            return self._reason()
        if self._bucket is not None:
            self._bucket.take(self._loop.time())
        return ""

    def changed(self, *, left: bool) -> None:
        """A connection has begun, or one has `left`. For what counts them."""
        self._write()
        if left and self._waiting:
            self._open_soon()

    def _has_room(self, *, is_first: bool) -> bool:
        limit = self._limit
        self._lacks_token = self._bucket is not None and self._bucket.wait(self._loop.time()) > 0
        if self._lacks_token:
            return False
        if limit is None:
            return True
        if self._column is None:
            return self._counted.count < limit
        self._write(1)
        if self._counted.count + self._column.others(is_first=is_first) < limit:
            return True
        self._write()
        return False

    def _write(self, more: int = 0) -> None:
        """Tell other processes; of `more` clients only until it is known whether they come."""
        if self._column is not None:
            self._column.write(self._counted.count + more, sum(each.holds for each in self._waiting))
            if more and not self._settling:
                self._settling = True
                self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = False
        self._write()

    def _reason(self) -> str:
        if self._lacks_token:
            return "more clients come than userproxy.io/connection-rate allows"
        return f"there are {self.limits.connections} connections, as many as userproxy.io/max-connections allows"

    def _wait(self, listener: Listener) -> None:
        if not listener.somebody_waits:
            self._waiting.setdefault(listener, _NEVER)
            return
        if self._waiting.get(listener, _NEVER) == _NEVER:
            self._waiting[listener] = self._loop.time()
        self._arm()

    def _waits_no_longer(self, listener: Listener) -> None:
        self._waiting.pop(listener, None)
        if not self._waiting:
            self.looking.discard(self)

    @property
    def looks_at(self) -> float | None:
        """When it sees to its clients next, on the loop's clock, whatever happens; None if nobody waits."""
        return None if self._timer is None else self._due

    def _arm(self) -> None:
        """See to it that clients come in, or are refused, when it is time, whatever happens in this process."""
        now = self._loop.time()
        due = min(self._waiting.values(), default=_NEVER) + self._patience
        if due == _NEVER:
            self.looking.discard(self)
            return
        if self._bucket is not None and self._lacks_token:
            due = min(due, now + self._bucket.wait(now))
        if self._column is not None and self._limit is not None:
            self.looking.add(self)
            due = min(due, now + _LOOK_SECONDS * max(1.0, len(self.looking) / _AT_FULL_PACE))
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for listener, since in list(self._waiting.items()):
            if since + self._patience <= now:
                self._expire(listener, now)
        self._resume_all()
        if self._waiting:
            self._write()
            self._arm()

    def _expire(self, listener: Listener, now: float) -> None:
        left = listener.expire_waiting(self._patience, f"it has waited for {self._patience:g} s: {self._reason()}")
        self._waiting[listener] = _NEVER if left is None else now + left - self._patience

    def _open_soon(self) -> None:
        if self._waiting:
            self._loop.call_soon(self._resume_all)

    def _resume_all(self) -> None:
        for listener in list(self._waiting):
            listener.resume()
