"""Keeps what happens again and again from filling the log. For all parts of the data plane."""

from typing import Final

_SECONDS: Final = 60.0


class LogLimit:
    """Says of one kind of event which of its occurrences are to be logged.

    Either :meth:`begins` or :meth:`is_due` is asked at each occurrence, with the time: seconds of a monotonic clock.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = float("-inf")

    def begins(self, now: float) -> bool:
        """Whether this is the first occurrence for a minute. What goes on for an hour is logged once, at its start."""
        last, self._last = self._last, now
        return now - last > _SECONDS

    def is_due(self, now: float) -> bool:
        """Whether nothing was logged within a minute. What goes on for an hour is logged sixty times."""
        if now - self._last < _SECONDS:
            return False
        self._last = now
        return True
