"""Listeners that are closed: what they have counted is still asked for, and their clients may go on."""

from collections.abc import Callable
from typing import Final

from userproxy.forwarding.observation.counters import ListenerCounters
from userproxy.model import ListenerName

KEPT_SECONDS: Final = 300.0
"""Metrics are read more often than that."""

MOST: Final = 1024
"""A kilobyte or two each, and more where there were many endpoints."""


class ClosedListeners:
    """The listeners that were closed, until they have had no client for five minutes; of many the last.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[ListenerCounters, tuple[ListenerName, float]] = {}

    def add(self, name: ListenerName, counters: ListenerCounters) -> None:
        """Keep what a listener has counted that has just been closed, if it has ever had a client."""
        if not (counters.accepted or counters.refused or counters.unserved):
            return
        self._until[counters] = name, self._clock() + KEPT_SECONDS
        if len(self._until) > MOST:
            del self._until[next(iter(self._until))]

    def current(self) -> list[tuple[ListenerName, ListenerCounters]]:
        """Those that are kept, by the time when they were closed."""
        now = self._clock()
        for counters, (name, until) in list(self._until.items()):
            if counters.active:
                self._until[counters] = name, now + KEPT_SECONDS
            elif until <= now:
                del self._until[counters]
        return [(name, counters) for counters, (name, _) in self._until.items()]
