"""What can go wrong with the API server, split by what the caller does next; and the log of it.

The text of an error is the same at every retry, so that FailureLog can tell a failure that lasts from a new one.
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
"""Seconds after which a failure that lasts is logged again; doubled each time up to the second figure."""


class ApiError(UserproxyError):
    """Something is wrong with the API server or the way to it; it is tried again after a pause.

    `retry_after` is the least pause in seconds that the server asks for, or None.
    """

    retry_after: float | None = None


class UnreachableError(ApiError):
    """No answer, or one that broke off."""


class NoConnectionError(UnreachableError):
    """There was no connection over which to ask."""


class IdleTimeoutError(UnreachableError):
    """The server accepted a request and then sent nothing for too long."""


class RefusedError(ApiError):
    """The server answered with an error; `status` is its HTTP status code."""

    def __init__(self, status: int, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


class ExpiredError(ApiError):
    """The server does not know the version we ask for, any longer or yet: only a new list helps."""


class _Cause(Struct):
    reason: str | None = None


class _Details(Struct):
    causes: list[_Cause] | None = None


class Status(Struct):
    """What a server says of an error: the body of an answer, or the object of a watch's ERROR event."""

    code: int | None = None
    message: str | None = None
    reason: str | None = None
    details: _Details | None = None

    @property
    def asks_for_a_list(self) -> bool:
        """Whether the version that was asked for is forgotten, or not reached: etcd may have been restored."""
        causes = (self.details.causes or ()) if self.details else ()
        too_large = any(cause.reason == "ResourceVersionTooLarge" for cause in causes)
        return too_large or self.code == 410 or self.reason in {"Expired", "Gone"}


class _Logged(Struct):
    """When a sentence was first logged, as text, and when it is to be logged again, in seconds of the clock."""

    since: str
    due: float
    pause: float


class FailureLog:
    """Logs what fails at the API server: at once, again every few minutes while it lasts, and when all is well again.

    Failures are kept by topic. Several topics that fail with the same sentence are logged as one. `clock` is monotonic,
    in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._current: dict[str, set[str]] = {}
        self._logged: dict[str, _Logged] = {}

    def failed(self, topic: str, sentence: str, serving: str) -> None:
        """A try of `topic` failed; `serving` is what is served meanwhile, for the log."""
        self._current.setdefault(topic, set()).add(sentence)
        now, logged = self._clock(), self._logged.get(sentence)
        if logged is None:
            since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            self._logged[sentence] = _Logged(since, now + _FIRST_REMINDER, _FIRST_REMINDER)
            log.warning(sentence, serving=serving)
        elif now >= logged.due:
            logged.pause = min(2 * logged.pause, _LONGEST_REMINDER)
            logged.due = now + logged.pause
            log.warning(sentence, serving=serving, since=logged.since)
        else:
            log.debug(sentence, v=2, topic=topic)

    def current(self, *topics: str) -> str:
        """What is wrong with `topics` now, as one text; empty if nothing is."""
        return "; ".join(sorted(set[str]().union(*(self._current.get(topic, ()) for topic in topics))))

    def succeeded(self, topic: str) -> None:
        """A try of `topic` succeeded."""
        if not self._current.pop(topic, None):
            return
        left = set[str]().union(*self._current.values())
        self._logged = {sentence: logged for sentence, logged in self._logged.items() if sentence in left}
        if not left:
            log.info("The API server answers again")
