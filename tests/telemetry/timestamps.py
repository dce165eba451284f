"""Time as tests need it: a clock that stands until it is moved."""

from datetime import UTC, datetime

from userproxy.telemetry.timestamps import Timestamp

_START = int(datetime(2026, 1, 2, 3, 4, 0, tzinfo=UTC).timestamp()) * 1_000_000_000


def at(seconds: float) -> Timestamp:
    """`seconds` after 2026-01-02 03:04:00 UTC."""
    return Timestamp(_START + round(seconds * 1e9), 1000 + seconds)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> Timestamp:
        return at(self.seconds)
