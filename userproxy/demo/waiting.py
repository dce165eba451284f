"""Waiting for a condition with a deadline: what stands where others would sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

from userproxy.errors import UserproxyError

T = TypeVar("T")


class DeadlineError(UserproxyError):
    """A condition did not come true in time; the text says which, and how long was waited."""


def eventually(condition: Callable[[], T], seconds: float = 30.0, what: str = "the condition") -> T:
    """The first true value of `condition`, which is asked every 5 ms for up to `seconds`.

    An OSError or AssertionError raised by it counts as "not yet", so that ``connect`` and ``assert`` can
    stand in it. Raises DeadlineError, chained to the last of those.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: Exception | None = None
        try:
            if value := condition():
                return value
        except (OSError, AssertionError) as error:
            last = error
        if time.monotonic() > deadline:
            reason = f": {last}" if last else ""
            raise DeadlineError(f"{what} did not come true within {seconds:g} s{reason}") from last
        time.sleep(0.005)
