"""Long work lets the loop have its turns, and no more often than each slice ends."""

import asyncio
import gc
from collections.abc import Generator
from itertools import pairwise

import pytest

from userproxy import pace
from userproxy.pace import SLICE_SECONDS, Pace, ThreadPace, UnhurriedPace, emptied, in_slices, serving, uncollected


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


async def turns_during(pace: Pace) -> int:
    """How often others had their turn while `pace` was kept once."""
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    await pace.keep()
    return len(turns)


async def test_within_a_slice_work_goes_on_at_once(clock: Clock) -> None:
    kept = Pace()
    clock.now += SLICE_SECONDS / 2
    assert not kept.is_over
    assert await turns_during(kept) == 0


async def test_after_a_slice_others_have_their_turn_and_another_slice_begins(clock: Clock) -> None:
    kept = Pace()
    clock.now += SLICE_SECONDS * 1.5
    assert [kept.is_over, await turns_during(kept), kept.is_over] == [True, 1, False]
    clock.now += SLICE_SECONDS / 2
    assert await turns_during(kept) == 0


async def test_work_may_take_a_part_of_its_slices_and_leave_the_rest_to_what_comes_after_each(clock: Clock) -> None:
    kept = Pace(0.5)
    for _ in range(2):
        clock.now += SLICE_SECONDS * 0.4
        before = kept.is_over
        clock.now += SLICE_SECONDS * 0.2
        assert [before, kept.is_over, await turns_during(kept)] == [False, True, 1]


async def test_pieces_of_work_under_way_share_a_slice(clock: Clock) -> None:
    slices: list[float] = []

    async def work(kept: Pace) -> None:
        for _ in range(4):
            began = clock.now
            while not kept.is_over:
                clock.now += SLICE_SECONDS / 100
            slices.append(clock.now - began)
            await kept.keep()

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(work(Pace()), name=f"work {number}")
    assert max(slices[3:-3]) <= SLICE_SECONDS / 3 + SLICE_SECONDS / 50


@pytest.mark.parametrize(("turn", "slices"), [(3, 1), (10, 1), (50, 5), (100, 10), (2_000, 10)])
async def test_work_gets_a_tenth_of_the_time_where_others_need_more_than_a_slice(
    clock: Clock, turn: int, slices: int
) -> None:
    """`turn` is how many slices others take."""
    kept = Pace()
    clock.now += SLICE_SECONDS * 1.01

    def traffic() -> None:
        clock.now += SLICE_SECONDS * turn

    asyncio.get_running_loop().call_soon(traffic)
    await kept.keep()
    clock.now += SLICE_SECONDS * (slices - 0.01)
    before = kept.is_over
    clock.now += SLICE_SECONDS * 0.02
    assert [before, kept.is_over] == [False, True]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[float]:
    """For how long anything has slept."""
    found: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        found.append(seconds)
        clock.now += seconds
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    return found


async def test_work_that_nobody_waits_for_pauses_after_each_slice(clock: Clock, slept: list[float]) -> None:
    kept, over = UnhurriedPace(), []
    clock.now += SLICE_SECONDS / 2
    await kept.keep()
    assert len(slept) == 0
    clock.now += SLICE_SECONDS
    await kept.keep()
    for seconds in (0.00009, 0.00002):  # a tenth of the pause, which is more than the usual slice
        clock.now += seconds
        over.append(kept.is_over)
    assert over == [False, True]
    await kept.rest()
    await kept.rest()
    assert slept == [0.001] * 3, "also in the middle of a slice"


async def test_it_is_in_a_hurry_after_some_seconds(clock: Clock, slept: list[float]) -> None:
    kept = UnhurriedPace()
    clock.now += 4.9
    await kept.keep()
    clock.now += 0.2
    await kept.keep()
    await kept.rest()
    assert slept == [0.001, 0]


class SlowDict(dict[int, None]):
    """A dictionary of which each item takes a thirtieth of a slice to be freed."""

    def __init__(self, clock: Clock, count: int) -> None:
        super().__init__(dict.fromkeys(range(count)))
        self._clock = clock

    def popitem(self) -> tuple[int, None]:
        self._clock.now += SLICE_SECONDS / 30
        return super().popitem()


async def test_a_dictionary_is_emptied_in_slices(clock: Clock) -> None:
    items = SlowDict(clock, 1_000)
    left = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(emptied(items), name="emptied")
        while not task.done():
            left.append(len(items))
            await asyncio.sleep(0)
    assert not items
    assert len(left) > 10
    assert max(before - after for before, after in pairwise(left)) < 100


def test_the_collector_is_off_for_as_long_as_any_of_several_works() -> None:
    assert gc.isenabled()
    one, other = uncollected(), uncollected()
    with one:
        assert not gc.isenabled()
        other.__enter__()
    assert not gc.isenabled(), "the other one is under way"
    other.__exit__(None, None, None)
    assert gc.isenabled()
    with pytest.raises(ValueError, match="broken off"), uncollected():
        raise ValueError("broken off")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


async def test_a_generator_is_gone_through_in_slices_and_its_result_is_had() -> None:
    others: list[int] = []
    asyncio.get_running_loop().call_soon(others.append, 1)

    def steps() -> Generator[None, None, int]:
        count = 0
        while not others:
            count += 1
            yield
        return count

    assert await in_slices(steps()) > 1
    assert others == [1]


def test_a_thread_sleeps_after_each_slice_once_the_loop_serves_traffic(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace._Work, "serves", False)
    kept = ThreadPace()
    clock.now += SLICE_SECONDS * 1.5
    kept.keep()
    assert clock.slept == [], "nobody waits for it"
    serving()
    clock.now += SLICE_SECONDS / 2
    kept.keep()
    assert clock.slept == []
    clock.now += SLICE_SECONDS
    kept.keep()
    assert clock.slept == [SLICE_SECONDS]
    clock.now += SLICE_SECONDS / 2
    kept.keep()
    assert clock.slept == [SLICE_SECONDS]
