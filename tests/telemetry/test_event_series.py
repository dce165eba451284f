"""The token bucket, by the clock that it is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.telemetry.event_series import TokenBucket


def test_a_burst_and_then_one_at_a_time() -> None:
    bucket = TokenBucket(3, 10.0)
    assert [bucket.take(100) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(104) == pytest.approx(6)
    assert bucket.take(110)
    assert not bucket.take(110)
    assert [bucket.take(1000) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(0, 30), max_size=60))
def test_never_more_than_the_burst_and_the_rate_allow(pauses: list[float]) -> None:
    bucket, now, taken = TokenBucket(5, 2.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
    assert taken <= 5 + now / 2 + 1e-6
