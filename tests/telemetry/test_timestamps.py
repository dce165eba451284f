"""Times as Go and the API write them."""

import pytest

from userproxy.telemetry.timestamps import micro_time, rfc3339_nano


@pytest.mark.parametrize(
    ("wall_ns", "nano", "micro"),
    [
        (0, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
        (1_767_323_045_678_901_234, "2026-01-02T03:04:05.678901234Z", "2026-01-02T03:04:05.678901Z"),
        (1_767_323_030_100_000_000, "2026-01-02T03:03:50.1Z", "2026-01-02T03:03:50.100000Z"),
        (1_767_323_030_000_000_001, "2026-01-02T03:03:50.000000001Z", "2026-01-02T03:03:50.000000Z"),
    ],
)
def test_nanoseconds_lose_their_zeros_and_microseconds_keep_them(wall_ns: int, nano: str, micro: str) -> None:
    assert rfc3339_nano(wall_ns) == nano
    assert micro_time(wall_ns) == micro
