"""Timestamps, and how Kubernetes writes them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeAlias

from msgspec import Struct

_SECOND: Final = 1_000_000_000
ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""How Go writes a time that was never set."""


class Timestamp(Struct, frozen=True):
    """A point in time by two clocks.

    `wall_ns` is nanoseconds since 1970, to be shown. `monotonic` is seconds, to be compared: setting the node's clock
    must not make it unhealthy.
    """

    wall_ns: int
    monotonic: float


Clock: TypeAlias = Callable[[], Timestamp]


def now() -> Timestamp:
    """The time now."""
    return Timestamp(time.time_ns(), time.monotonic())


def rfc3339_nano(wall_ns: int) -> str:
    """RFC 3339 in UTC with as many digits as it takes, none for a whole second: Go's ``RFC3339Nano``."""
    seconds, rest = divmod(wall_ns, _SECOND)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{_to_the_second(seconds)}{fraction}Z"


def micro_time(wall_ns: int) -> str:
    """RFC 3339 in UTC with exactly six digits: the API's ``MicroTime``."""
    seconds, rest = divmod(wall_ns, _SECOND)
    return f"{_to_the_second(seconds)}.{rest // 1000:06d}Z"


def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
