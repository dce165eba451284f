"""When bytes may leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.forwarding.faults.schedule import Schedule
from userproxy.forwarding.faults.shape import Way

chances = st.floats(0, 1)
arrivals = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 100_000), chances), min_size=1, max_size=50)


@given(arrivals, st.floats(0, 2), st.floats(0, 1))
def test_nothing_comes_before_its_time_and_nothing_overtakes(
    coming: list[tuple[float, int, float]], seconds: float, jitter: float
) -> None:
    schedule, now, last = Schedule(Way(seconds, jitter)), 100.0, 0.0
    for pause, size, chance in coming:
        now += pause
        due = schedule.due(size, now, chance)
        assert due >= last
        assert due >= now + max(0.0, seconds - jitter) - 1e-9
        assert due <= max(last, now + seconds + jitter + 1e-9)
        last = due


@given(arrivals, st.integers(1, 10**9), st.floats(0, 2))
def test_at_no_time_more_has_left_than_the_rate_allows(
    coming: list[tuple[float, int, float]], rate: int, seconds: float
) -> None:
    """Measured from when the link was last idle, to the byte."""
    schedule, now, began, sent, last = Schedule(Way(seconds, rate=rate)), 100.0, 100.0, 0, 0.0
    for pause, size, chance in coming:
        now += pause
        if now > last - seconds:
            began, sent = now, 0
        sent += size
        last = schedule.due(size, now, chance)
        assert last - seconds - began == pytest.approx(sent / rate, rel=1e-6, abs=1e-6)


def test_a_link_that_was_idle_saves_nothing_up() -> None:
    schedule = Schedule(Way(rate=1000))
    assert schedule.due(100, 50.0, 0.5) == pytest.approx(50.1)
    assert schedule.due(100, 90.0, 0.5) == pytest.approx(90.1)
    assert schedule.due(100, 90.0, 0.5) == pytest.approx(90.2)


def test_what_has_waited_for_room_has_not_left_the_link_idle() -> None:
    schedule = Schedule(Way(rate=1000))
    assert schedule.due(100, 50.0, 0.5) == pytest.approx(50.1)
    assert schedule.due(100, 50.15, 0.5, since=49.9) == pytest.approx(50.2), "50 ms late, which is made up for"
    assert schedule.due(10, 50.3, 0.5, since=50.05) == 50.3, "it leaves at once, and no sooner than it came"
    assert schedule.due(100, 50.3, 0.5) == pytest.approx(50.4)
    late = Schedule(Way(seconds=1.0, rate=1000))
    assert late.due(100, 50.0, 0.5) == pytest.approx(51.1)
    assert late.due(10, 50.2, 0.5, since=49.95) == pytest.approx(51.2), "a latency counts from when it came"


def test_bytes_leave_in_pieces_of_a_fiftieth_of_a_second() -> None:
    data = memoryview(bytes(range(250)) * 4)
    assert [len(piece) for piece in Schedule(Way(rate=20_000)).pieces(data)] == [400, 400, 200]
    assert b"".join(Schedule(Way(rate=20_000)).pieces(data)) == data
    assert [len(piece) for piece in Schedule(Way(rate=1)).pieces(data[:3])] == [1, 1, 1]
    assert [len(piece) for piece in Schedule(Way(1.0)).pieces(data)] == [1000]
