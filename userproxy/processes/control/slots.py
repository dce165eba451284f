"""Where in shared memory data processes count the clients of service ports with limits, and those who are held."""

from collections import deque
from itertools import count

from userproxy.forwarding.limits.counts import SLOTS
from userproxy.model import ListenerName, ServicePortName


class Slots:
    """The slot of each service port that has one, for as long as a listener of it is open.

    Each slot is another service port's only after all others were somebody's: a data process that is slow to hear of a
    change then still writes where nobody reads.
    """

    def __init__(self) -> None:
        self._taken: dict[ServicePortName, int] = {}
        self._listeners: dict[ServicePortName, set[ListenerName]] = {}
        self._fresh = count()
        self._free: deque[int] = deque()

    def of(self, listener: ListenerName) -> int | None:
        """The slot of a listener's service port; None where all are taken."""
        name = listener.service_port
        slot = self._taken.get(name)
        if slot is None:
            slot = self._next()
            if slot is None:
                return None
            self._taken[name] = slot
            self._listeners[name] = set()
        self._listeners[name].add(listener)
        return slot

    def leave(self, listener: ListenerName) -> bool:
        """A listener is closed: returns whether its service port has no slot any more."""
        name = listener.service_port
        its = self._listeners.get(name)
        if its is None:
            return False
        its.discard(listener)
        if its:
            return False
        del self._listeners[name]
        self._free.append(self._taken.pop(name))
        return True

    def _next(self) -> int | None:
        slot = next(self._fresh, SLOTS)
        if slot < SLOTS:
            return slot
        return self._free.popleft() if self._free else None
