"""How soon other programs' changes are repaired: at once, but with growing pauses if they undo repairs again and again.

Pure: times are arguments, in seconds of any clock that does not go back.
"""

from typing import Final

_LEAST_PAUSE: Final = 0.25
_LONGEST_USUAL_PAUSE: Final = 1.0

_STANDS_SECONDS: Final = 10.0
"""A repair that has stood for so long counts as accepted: a change after that begins a new row."""

TOLD_AFTER: Final = 5
"""So many repairs in a row, none of which has stood, are logged and count as a fight."""

DAMPED_AFTER: Final = 20
"""After so many repairs in a row, each has to wait twice as long as the one before."""


class Repairs:
    """The repairs of one family's portals. `period` is after how many seconds portals are read back in any case."""

    def __init__(self, period: float) -> None:
        self.period = period
        self.fight: str | None = None
        """Who undoes our repairs again and again, as a clause; None while nobody does."""
        self._in_a_row = 0
        self._first = 0.0
        self._last: float | None = None
        self._is_disturbed = False
        self._usual_pause = _LEAST_PAUSE

    @property
    def pause(self) -> float:
        """How many seconds after the end of a sync others' changes have to wait for the next one."""
        if self._in_a_row <= DAMPED_AFTER:
            return self._usual_pause
        doubled: float = _LONGEST_USUAL_PAUSE * 2 ** min(self._in_a_row - DAMPED_AFTER, 16)
        return max(self._usual_pause, min(doubled, self.period))

    def disturbed(self, now: float) -> None:
        """Note that others may have changed what stands."""
        if not self._is_disturbed:
            self._is_disturbed = True
            self._look_back(now)

    def synced(self, began: float, now: float, *, repaired: bool, author: str = "") -> None:
        """Note that a verifying sync has succeeded; `author` names who had changed what it `repaired`, if known."""
        self._usual_pause = min(max(_LEAST_PAUSE, 2 * (now - began)), _LONGEST_USUAL_PAUSE)
        self._is_disturbed = False
        if not repaired:
            self._look_back(now)
            return
        self._count(now)
        if self.fight is None and self._in_a_row >= TOLD_AFTER:
            who = author or "a program that the kernel does not name"
            self.fight = (
                f"{who}, and were repaired {self._in_a_row} times within {now - self._first:.0f} s:"
                " if that goes on, repairs become ever more seldom"
            )

    def failed(self, now: float) -> None:
        """Note that a verifying sync has failed, which counts as a repair: others may have caused it."""
        self._is_disturbed = False
        self._count(now)

    def _count(self, now: float) -> None:
        self._in_a_row += 1
        self._last = now
        if self._in_a_row == 1:
            self._first = now

    def _look_back(self, now: float) -> None:
        if self._last is not None and now - self._last >= _STANDS_SECONDS:
            self._in_a_row, self._last, self.fight = 0, None, None
