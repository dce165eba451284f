"""Keep-alive of connections to endpoints (tcp(7)): switched on once they are some seconds old.

It takes three system calls, and tells of an endpoint that has gone without a word after minutes. A short connection
does without. Those of clients have it from their listener, at no cost.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol
from weakref import WeakSet

from userproxy.forwarding.observation.recorder import Recorder

SECONDS: Final = 5.0
"""Connections that are twice as old have keep-alive, and those that are younger than this have not."""

_AT_ONCE: Final = 64
"""How many connections are dealt with in one turn of the loop; each takes about 2 us."""


class Kept(Protocol):
    """An established connection."""

    closed: bool

    def keep_alive(self) -> None:
        """Switch it on."""


class Keeping(Protocol):
    """The connections of a listener. `is_looked_after` is whether :meth:`KeepAlive.look_after` has been called."""

    is_looked_after: bool

    def __len__(self) -> int:
        """How many there are, dials included."""

    def established(self, after: int, last: int) -> Iterable[Kept]:
        """Those with ids beyond `after`, `last` included."""


class KeepAlive:
    """Switches it on for all connections of a process. `recorder` gives them their ids, in the order of their age."""

    def __init__(self, loop: asyncio.AbstractEventLoop, recorder: Recorder) -> None:
        self._loop = loop
        self._recorder = recorder
        # Weak: a closed listener, which other parts forget by losing it, is not kept for a look at nothing.
        self._listeners: WeakSet[Keeping] = WeakSet()
        self._timer: asyncio.Handle | None = None
        self._done = self._before = recorder.last_id
        """The newest connections that have been dealt with, and that there were at the last look."""
        self._due: deque[Kept] = deque()

    def look_after(self, connections: Keeping) -> None:
        """Switch it on for connections of a listener that has some now, until there is none left."""
        connections.is_looked_after = True
        self._listeners.add(connections)
        if self._timer is None:
            self._timer = self._loop.call_later(SECONDS, self._look)

    def shut_down(self) -> None:
        """Cancel the timer."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        for connections in list(self._listeners):
            if connections:
                self._due.extend(connections.established(self._done, self._before))
            else:
                connections.is_looked_after = False
                self._listeners.discard(connections)
        self._done, self._before = self._before, self._recorder.last_id
        if self._listeners:
            self._timer = self._loop.call_later(SECONDS, self._look)
        self._switch_some_on()

    def _switch_some_on(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._due))):
            connection = self._due.popleft()
            if not connection.closed:
                connection.keep_alive()
        if self._due:
            self._loop.call_soon(self._switch_some_on)
