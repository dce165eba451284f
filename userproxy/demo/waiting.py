"""Waiting for a condition with a deadline: what stands where others would sleep."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from userproxy.errors import UserproxyError

T = TypeVar("T")

_SLOWEST: Final = 3.0
"""A time limit is so many times as long where somebody always waits for a processor."""

_PAUSE: Final = 0.005
"""Seconds between two questions."""

_LONGEST_PAUSE: Final = 0.05

_PRESSURE: Final = Path("/proc/pressure/cpu")


class DeadlineError(UserproxyError):
    """A condition did not come true in time; the text says which, and how long was waited."""


class Deadline:
    """The end of so many seconds from now on, as they are on a machine on which nobody waits for a processor.

    How long somebody has waited for one is told by the kernel (Documentation/accounting/psi.rst). Of such time only a
    third counts: a time limit says how long something takes, and not how much else the machine has to do.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float] = time.monotonic, stalled: Callable[[], float] | None = None
    ) -> None:
        """`stalled` says for how many seconds somebody has waited for a processor, since any time before."""
        self._seconds = seconds
        self._clock = clock
        self._stalled = stalled or processors_were_wanted
        self._start = clock()
        self._stalled_before = self._stalled()

    @property
    def left(self) -> float:
        """Seconds until then at least; 0 if it is over."""
        elapsed = self._clock() - self._start
        stalled = min(elapsed, self._stalled() - self._stalled_before)
        return max(0.0, self._seconds - elapsed + stalled * (1.0 - 1.0 / _SLOWEST))


def processors_were_wanted() -> float:
    """For how many seconds somebody has waited for a processor since this machine started; 0 where nobody knows."""
    with suppress(OSError):
        some = _PRESSURE.read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6
    return 0.0


def eventually(condition: Callable[[], T], seconds: float = 30.0, what: str = "the condition") -> T:
    """The first true value of `condition`, which is asked every 5 ms for up to `seconds` (see :class:`Deadline`).

    One that takes longer than that to answer, since it runs programs, gets pauses as long as its answers take, up to
    50 ms.
    An OSError or AssertionError raised by it counts as "not yet", so that ``connect`` and ``assert`` can
    stand in it. Raises DeadlineError, chained to the last of those.
    """
    deadline = Deadline(seconds)
    while True:
        last: Exception | None = None
        asked = time.monotonic()
        try:
            if value := condition():
                return value
        except (OSError, AssertionError) as error:
            last = error
        if not deadline.left:
            reason = f": {last}" if last else ""
            raise DeadlineError(f"{what} did not come true within {seconds:g} s{reason}") from last
        time.sleep(min(max(_PAUSE, time.monotonic() - asked), _LONGEST_PAUSE))
