"""What can go wrong with the API server, split by what the one who asked does next.

The text of each is the same at every retry, so that an episode is told once.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from msgspec import Struct

from userproxy.errors import UserproxyError

log = structlog.get_logger()

_FIRST_REMINDER: Final = 60.0
_LONGEST_REMINDER: Final = 300.0
"""When a trouble is told again, and the longest time between two such lines. Seconds."""


class ApiError(UserproxyError):
    """Something is wrong with the API server or the way to it; it is tried again after a pause.

    `retry_after` is the least pause in seconds that the server asks for, or None.
    """

    retry_after: float | None = None


class UnreachableError(ApiError):
    """No answer, or one that broke off."""


class NoConnectionError(UnreachableError):
    """There was no connection over which to ask."""


class SilentError(UnreachableError):
    """The server accepted a request and then sent nothing for too long."""


class RefusedError(ApiError):
    """The server answered with an error; `status` is its HTTP status code."""

    def __init__(self, status: int, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


class ExpiredError(ApiError):
    """The server does not know the version we ask for, any longer or yet: only a new list helps."""


class _Told(Struct):
    """When a sentence was first said, as a time for people, and when it is due again by the clock."""

    since: str
    due: float
    pause: float


class Troubles:
    """What is wrong now, by topic. Several topics with the same sentence are one trouble.

    `clock` gives seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._current: dict[str, set[str]] = {}
        self._told: dict[str, _Told] = {}

    def note(self, topic: str, sentence: str, serving: str) -> None:
        """Something failed; `serving` says what is served in spite of it."""
        self._current.setdefault(topic, set()).add(sentence)
        now, told = self._clock(), self._told.get(sentence)
        if told is None:
            since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            self._told[sentence] = _Told(since, now + _FIRST_REMINDER, _FIRST_REMINDER)
            log.warning(sentence, serving=serving)
        elif now >= told.due:
            told.pause = min(2 * told.pause, _LONGEST_REMINDER)
            told.due = now + told.pause
            log.warning(sentence, serving=serving, since=told.since)
        else:
            log.debug(sentence, v=2, topic=topic)

    def clear(self, topic: str) -> None:
        """It works again."""
        if not self._current.pop(topic, None):
            return
        left = set[str]().union(*self._current.values())
        self._told = {sentence: told for sentence, told in self._told.items() if sentence in left}
        if not left:
            log.info("The API server answers again")
