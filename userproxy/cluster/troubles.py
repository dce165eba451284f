"""Troubles with the API server: told once an episode, and again every few minutes for as long as it lasts."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from msgspec import Struct

log = structlog.get_logger()

_FIRST_REMINDER: Final = 60.0
_LONGEST_REMINDER: Final = 300.0
"""When a trouble is told again, and the longest time between two such lines. Seconds."""


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
