"""Exceptions of handlers, each of which costs one client or one datagram: counted, and logged once a minute."""

from collections.abc import Callable
from types import TracebackType

import structlog

from userproxy.forwarding.log_limit import LogLimit

log = structlog.get_logger()


class HandlerFailures:
    """The unexpected exceptions in one part of the data plane. `clock` is monotonic, in seconds."""

    __slots__ = ("_clock", "_logged", "count")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged: dict[tuple[str, int], tuple[LogLimit, int]] = {}
        """For each line of code: its limit, and the count of all failures when it was logged last."""
        self.count = 0

    def note(self, error: Exception) -> None:
        """Count a failure, and log it with its traceback, at most once a minute for each line of code."""
        self.count += 1
        line = _line_of(error)
        limit, count = self._logged.get(line) or (LogLimit(), 0)
        if limit.is_due(self._clock()):
            self._logged[line] = limit, self.count
            log.error(
                "A client is given up: handling it failed, which is a bug in userproxy",
                failures=self.count,
                since_last_told=self.count - count,
                exc_info=error,
            )


def _line_of(error: Exception) -> tuple[str, int]:
    """The file and line where it was raised."""
    traceback: TracebackType | None = error.__traceback__
    if traceback is None:
        return type(error).__name__, 0
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
