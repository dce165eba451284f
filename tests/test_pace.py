"""Long work lets the loop have its turns, and no more often than each slice ends."""

import asyncio

import pytest

from userproxy import pace
from userproxy.pace import SLICE_SECONDS, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

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
