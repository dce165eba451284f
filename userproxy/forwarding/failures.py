"""Bugs that cost a client, or a datagram, and nobody else: counted, and logged so that no client can flood the log."""

from collections.abc import Callable
from types import TracebackType
from typing import Final

import structlog

log = structlog.get_logger()

_QUIET_SECONDS: Final = 60.0
"""A place that fails again within this time of the last message about it is only counted."""


class HandlerFailures:
    """What has failed so far in one part of the data plane. `clock` is monotonic, in seconds."""

    __slots__ = ("_clock", "_told", "count")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told: dict[tuple[str, int], tuple[float, int]] = {}
        """When each place was last logged, and how many failures there were of all places by then."""
        self.count = 0

    def note(self, error: Exception) -> None:
        """Count a failure; log it with its traceback unless its place, a line of code, was logged within a minute."""
        self.count += 1
        now, place = self._clock(), _place(error)
        last, count = self._told.get(place, (float("-inf"), 0))
        if now - last < _QUIET_SECONDS:
            return
        self._told[place] = now, self.count
        log.error(
            "A client is given up: handling it failed, which is a bug in userproxy",
            failures=self.count,
            since_last_told=self.count - count,
            exc_info=error,
        )


def _place(error: Exception) -> tuple[str, int]:
    """Where it was raised. There are no more of these than lines of code."""
    traceback: TracebackType | None = error.__traceback__
    if traceback is None:
        return type(error).__name__, 0
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
