"""How many a token bucket lets come, and when; time is an argument."""

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.forwarding.accept_turns import open_tally
from userproxy.forwarding.limits.bucket import Bucket
from userproxy.forwarding.limits.counts import Column, LimitCounts
from userproxy.forwarding.limits.lock import ByteLock


def test_what_comes_in_a_second_may_come_at_once_and_then_one_after_the_other() -> None:
    bucket = Bucket(4.0)
    for _ in range(4):
        assert bucket.wait(100.0) == 0.0
        bucket.take(100.0)
    assert bucket.wait(100.0) == 0.25
    assert bucket.wait(100.125) == 0.125
    assert bucket.wait(100.25) == 0.0
    bucket.take(100.25)
    assert bucket.wait(100.25) == 0.25


def test_less_than_one_a_second_lets_one_come_at_first() -> None:
    bucket = Bucket(0.5)
    assert bucket.wait(0.0) == 0.0
    bucket.take(0.0)
    assert bucket.wait(0.0) == 2.0


@given(st.floats(0.1, 1000.0), st.lists(st.floats(0.0, 5.0), max_size=40))
def test_no_more_come_than_the_rate_and_what_was_saved_up_in_a_second(rate: float, pauses: list[float]) -> None:
    bucket = Bucket(rate)
    now, came = 0.0, 0
    for pause in pauses:
        now += pause
        while bucket.wait(now) == 0.0 and came < 10_000:
            bucket.take(now)
            came += 1
    assert came <= rate * now + max(1.0, rate) + 1e-6


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = open_tally()
    yield descriptor
    os.close(descriptor)


def test_several_processes_take_from_one_bucket(memory: int) -> None:
    several = [Bucket(4.0, LimitCounts(memory, 3, place).column(9)) for place in range(3)]
    for number in range(4):
        assert [each.wait(100.0) for each in several] == [0.0] * 3
        several[number % 2].take(100.0)
    assert [each.wait(100.0) for each in several] == [0.25] * 3
    several[2].take(100.25)
    assert [each.wait(100.25) for each in several] == [0.25] * 3


def test_another_rate_begins_with_a_full_bucket_in_all_processes(memory: int) -> None:
    columns = [LimitCounts(memory, 2, place).column(0) for place in range(2)]
    slow = [Bucket(1 / 60, each) for each in columns]
    for each in slow:
        each.take(50.0)
    assert slow[0].wait(50.0) == 120.0
    fast = [Bucket(10.0, each) for each in columns]
    assert [each.wait(50.0) for each in fast] == [0.0, 0.0]


class Interrupted(list[int]):
    """The numbers of two processes, of which one does something just before the other writes."""

    meanwhile: Callable[[], object] | None = None

    def __setitem__(self, at: object, number: object) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        super().__setitem__(at, number)  # type: ignore[call-overload]


def test_of_two_who_take_at_the_same_time_both_count() -> None:
    """Both have read that nobody has taken any by the time when they write."""
    numbers = Interrupted([0] * 8)
    one, two = (
        Bucket(1.0, Column(numbers, ours, ((4 - ours, ours > 0),), ByteLock(-1, 0)))  # type: ignore[arg-type]
        for ours in (0, 4)
    )
    numbers.meanwhile = lambda: two.take(100.0)
    one.take(100.0)
    assert one.wait(100.0) == two.wait(100.0) == 2.0


@given(
    st.floats(0.1, 1000.0),
    st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 2)), max_size=40),
)
def test_all_processes_together_keep_to_the_rate(rate: float, clients: list[tuple[float, int]]) -> None:
    memory = open_tally()
    try:
        several = [Bucket(rate, LimitCounts(memory, 3, place).column(0)) for place in range(3)]
        now, came = 1.0, 0
        for pause, place in clients:
            now += pause
            while several[place].wait(now) == 0.0 and came < 2_000:
                several[place].take(now)
                came += 1
        assert came <= rate * (now - 1.0) + max(1.0, rate) + 1e-3
    finally:
        os.close(memory)
