"""When the runner runs: clock readings of real runs, compared with what the periods promise at least."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager

import pytest

from tests.forwarding.clocked import ClockedLoop
from userproxy.proxier.repairs import DAMPED_AFTER, Repairs
from userproxy.proxier.runner import SyncRunner


class Runs:
    """Records runs; `outcome` decides what the next ones return."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.verify: list[bool] = []
        self.outcome = True
        self.followed = 0
        self.suffices = False
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.changed = asyncio.Condition()

    async def follow(self) -> bool:
        async with self.changed:
            self.followed += 1
            self.changed.notify_all()
        return self.suffices

    async def sync(self, verify: bool) -> bool:
        async with self.changed:
            self.times.append(asyncio.get_running_loop().time())
            self.verify.append(verify)
            self.changed.notify_all()
        await self.may_end.wait()
        return self.outcome

    async def reach_followed(self, count: int) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: self.followed >= count)

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: len(self.times) >= count)


@asynccontextmanager
async def running(runs: Runs, runner: SyncRunner) -> AsyncIterator[Callable[[], None]]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run(runs.sync, runs.follow), name="runner")
        yield runner.request
        task.cancel()


async def test_requests_are_served_and_collapse() -> None:
    runs = Runs()
    async with running(runs, SyncRunner(0.1, 60)) as request:
        for _ in range(10):
            request()
        await runs.reach(1)
        for _ in range(10):
            request()
        await runs.reach(2)
    assert runs.times[1] - runs.times[0] >= 0.099
    assert runs.verify == [False, False]


async def test_nothing_runs_before_the_first_request() -> None:
    runs = Runs()
    async with running(runs, SyncRunner(0.0, 0.01)) as request:
        await asyncio.sleep(0.05)  # five periods, all of which have to pass in vain
        assert runs.times == []
        request()
        await runs.reach(1)


async def test_after_it_it_verifies_every_period() -> None:
    runs = Runs()
    async with running(runs, SyncRunner(0.0, 0.05)) as request:
        request()
        await runs.reach(3)
    assert runs.verify[:3] == [False, True, True]
    assert runs.times[2] - runs.times[0] >= 0.09


async def test_what_may_have_been_disturbed_is_verified_at_once_and_no_sooner_than_the_first_request() -> None:
    runs = Runs()
    runner = SyncRunner(0.0, 60)
    runner.verify()
    async with running(runs, runner) as request:
        await asyncio.sleep(0)
        assert runs.times == []
        request()
        await runs.reach(1)
        request()
        await runs.reach(2)
        runner.verify()
        await runs.reach(3)
    assert runs.verify == [True, False, True]


async def test_a_failed_run_is_tried_again_before_the_period_ends() -> None:
    runs = Runs()
    runs.outcome = False
    async with running(runs, SyncRunner(0.0, 3600)) as request:
        request()
        await runs.reach(2)
    assert runs.verify == [False, True]


async def test_requests_do_not_put_off_the_periodic_check() -> None:
    runs = Runs()
    async with running(runs, SyncRunner(0.0, 0.1)) as request:
        for count in range(1, 40):
            request()
            await runs.reach(count)
            await asyncio.sleep(0.01)
    assert any(runs.verify)


async def test_what_needs_no_sync_waits_for_none() -> None:
    runs = Runs()
    async with running(runs, SyncRunner(3600, 3600)) as request:
        request()
        await runs.reach(1)
        runs.suffices = True
        for count in range(2, 5):
            request()
            await runs.reach_followed(count)
    assert len(runs.times) == 1


async def test_what_needs_no_sync_is_done_while_one_is_under_way() -> None:
    runs = Runs()
    runs.may_end.clear()
    async with running(runs, SyncRunner(0.0, 3600)) as request:
        request()
        await runs.reach(1)
        request()
        await runs.reach_followed(2)
        assert len(runs.times) == 1
        runs.may_end.set()
        await runs.reach(2)


class Clocked:
    """A runner on a clock that the test sets; `runs` has the seconds from its first request on, and what was asked."""

    def __init__(self, loop: ClockedLoop, runner: SyncRunner) -> None:
        self.outcome = True
        self.runs: list[tuple[float, bool]] = []
        self.runner = runner
        self.loop = loop
        self._began = loop.time()

    async def sync(self, verify: bool) -> bool:
        self.runs.append((self.loop.time() - self._began, verify))
        return self.outcome

    def request(self) -> None:
        self.runner.request()
        self.loop.turn()

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)


@contextmanager
def clocked(min_period: float, period: float) -> Iterator[Clocked]:
    with closing(ClockedLoop()) as loop:
        made = Clocked(loop, SyncRunner(min_period, period))
        task = loop.create_task(made.runner.run(made.sync))
        loop.turn()
        yield made
        task.cancel()
        loop.turn()


def test_failed_syncs_are_tried_again_ever_more_slowly_up_to_the_period() -> None:
    with clocked(0.0, 5.0) as there:
        there.outcome = False
        there.request()
        there.advance(18.0)
        times = [0.0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5]
        assert there.runs == [(time, time > 0) for time in times]


def test_after_a_success_the_first_retry_comes_soon_again() -> None:
    with clocked(0.0, 60.0) as there:
        there.outcome = False
        there.request()
        there.advance(2.0)
        there.outcome = True
        there.advance(2.0)
        there.outcome = False
        there.advance(62.0)
        assert there.runs == [(0.0, False), *((time, True) for time in (0.5, 1.5, 3.5, 63.5, 64.0, 65.0))]


def test_a_sync_in_between_does_not_put_off_the_periodic_one() -> None:
    with clocked(0.0, 10.0) as there:
        there.request()
        there.advance(9.0)
        there.request()
        there.advance(12.0)
        assert there.runs == [(0.0, False), (9.0, False), (10.0, True), (20.0, True)]


def test_other_periods_count_from_the_next_sync_on() -> None:
    with clocked(0.0, 10.0) as there:
        there.request()
        there.runner.set_periods(2.0, 4.0)
        there.advance(15.0)
        there.request()
        there.advance(0.5)
        assert there.runs == [(0.0, False), (10.0, True), (14.0, True)], (
            "two seconds have not passed since the last one"
        )
        there.advance(0.5)
        assert there.runs[3:] == [(16.0, False)]


@pytest.mark.parametrize("apart", [0.5, 3.0])
def test_the_least_period_counts_from_the_end_of_the_sync_before(apart: float) -> None:
    with clocked(2.0, 60.0) as there:
        there.request()
        there.advance(apart)
        there.request()
        there.advance(5.0)
        assert there.runs == [(0.0, False), (max(apart, 2.0), False)]


async def test_what_others_changed_is_looked_at_however_long_the_least_period_is() -> None:
    runs = Runs()
    runner = SyncRunner(3600, 3600)
    async with running(runs, runner) as request:
        request()
        await runs.reach(1)
        runner.verify()
        await runs.reach(2)
        runner.verify()
        runner.verify()
        await runs.reach(3)
    assert runs.verify == [False, True, True]
    assert runs.times[2] - runs.times[1] >= Repairs(3600).pause - 0.001


async def test_a_fight_is_not_speeded_up_by_changes() -> None:
    runs = Runs()
    repairs = Repairs(3600)
    runner = SyncRunner(0.0, 3600, repairs)
    for _ in range(DAMPED_AFTER + 20):
        repairs.disturbed(time.monotonic())
        repairs.synced(time.monotonic(), time.monotonic(), repaired=True)
    async with running(runs, runner) as request:
        request()
        await runs.reach(1)
        for count in range(2, 10):
            runner.verify()
            request()
            await runs.reach(count)
    assert runs.verify[1:] == [False] * 8, "changes are written, and what others did is left for later"
