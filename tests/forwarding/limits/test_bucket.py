"""How many a token bucket lets come, and when; time is an argument."""

from hypothesis import given
from hypothesis import strategies as st

from userproxy.forwarding.limits.bucket import Bucket


def test_what_comes_in_a_second_may_come_at_once_and_then_one_after_the_other() -> None:
    bucket = Bucket(4.0, 100.0)
    for _ in range(4):
        assert bucket.wait(100.0) == 0.0
        bucket.take(100.0)
    assert bucket.wait(100.0) == 0.25
    assert bucket.wait(100.125) == 0.125
    assert bucket.wait(100.25) == 0.0
    bucket.take(100.25)
    assert bucket.wait(100.25) == 0.25


def test_less_than_one_a_second_lets_one_come_at_first() -> None:
    bucket = Bucket(0.5, 0.0)
    assert bucket.wait(0.0) == 0.0
    bucket.take(0.0)
    assert bucket.wait(0.0) == 2.0


@given(st.floats(0.1, 1000.0), st.lists(st.floats(0.0, 5.0), max_size=40))
def test_no_more_come_than_the_rate_and_what_was_saved_up_in_a_second(rate: float, pauses: list[float]) -> None:
    bucket = Bucket(rate, 0.0)
    now, came = 0.0, 0
    for pause in pauses:
        now += pause
        while bucket.wait(now) == 0.0 and came < 10_000:
            bucket.take(now)
            came += 1
    assert came <= rate * now + max(1.0, rate) + 1e-6
