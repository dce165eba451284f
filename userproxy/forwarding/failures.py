"""Bugs that cost a client, or a datagram, and nobody else: counted, and logged so that no client can flood the log."""

from collections.abc import Callable
from types import TracebackType

import structlog

from userproxy.forwarding.log_limit import LogLimit

log = structlog.get_logger()


class HandlerFailures:
    """What has failed so far in one part of the data plane. `clock` is monotonic, in seconds."""

    __slots__ = ("_clock", "_logged", "count")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged: dict[tuple[str, int], tuple[LogLimit, int]] = {}
        """By place: how often it is logged, and how many failures there were of all places when it last was."""
        self.count = 0

    def note(self, error: Exception) -> None:
        """Count a failure; log it with its traceback unless its place, a line of code, was logged within a minute."""
        self.count += 1
        place = _place(error)
        limit, count = self._logged.get(place) or (LogLimit(), 0)
        if limit.is_due(self._clock()):
            self._logged[place] = limit, self.count
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
