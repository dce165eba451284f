"""When the runner runs: clock readings of real runs, compared with what the periods promise at least."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

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
