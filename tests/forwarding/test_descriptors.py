"""The budget: counts, waits, wakes."""

import asyncio
import errno
import os
import resource
import socket
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from tests.forwarding.clocked import ClockedLoop
from tests.forwarding.conftest import eventually
from userproxy.forwarding import descriptors
from userproxy.forwarding.descriptors import (
    RESERVE,
    DescriptorBudget,
    count_descriptors,
    descriptors_counted_by_kernel,
    is_shortage,
    open_descriptors,
)


def a_budget(free: int) -> DescriptorBudget:
    return DescriptorBudget(asyncio.get_running_loop(), count_descriptors() + RESERVE + free)


async def test_takes_what_is_left_and_no_more() -> None:
    budget = a_budget(5)
    assert budget.take(2)
    assert budget.take(2)
    assert not budget.take(2)
    assert budget.take(1)
    budget.give(2)
    assert budget.take(2)


async def test_what_the_data_plane_has_is_not_counted_twice() -> None:
    budget = DescriptorBudget(asyncio.get_running_loop(), 1000)
    everything = budget.free
    assert budget.take(4)
    for given in (0, 2, 0):
        budget.give(given)
        taken = everything - budget.free
        budget._counted(open_descriptors() + taken, taken)  # as if they were open
        assert budget.free == everything - taken
    assert taken == 2


async def test_what_is_kept_for_others_is_not_taken() -> None:
    limit = count_descriptors() + RESERVE + 12
    budget = DescriptorBudget(asyncio.get_running_loop(), limit, kept=10)
    assert budget.take(2)
    assert not budget.take(1)


async def test_who_waits_is_called_when_something_is_given_back_and_only_once() -> None:
    budget = a_budget(2)
    assert budget.take(2)
    calls: list[str] = []
    with capture_logs() as logs:
        budget.wait(lambda: calls.append("a"))
        budget.wait(lambda: calls.append("b"))
    assert [entry["event"][:18] for entry in logs] == ["Out of descriptors"]
    await asyncio.sleep(0)
    assert calls == []
    budget.give(2)
    await eventually(lambda: len(calls) == 2)
    budget.give(0)
    await asyncio.sleep(0)
    assert calls == ["a", "b"]


async def test_who_waits_is_called_once_others_in_the_process_have_closed_their_files() -> None:
    """They tell nobody, so it shows when they are counted."""
    budget = a_budget(2)
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    budget.recount()
    assert not budget.take(2)
    calls: list[str] = []
    with capture_logs():
        budget.wait(lambda: calls.append("a"))
    budget.recount()
    await asyncio.sleep(0)
    assert calls == []
    for each in others:
        os.close(each)
    budget.recount()
    await eventually(lambda: calls == ["a"])
    assert budget.take(2)


async def test_who_waits_hears_of_what_others_in_the_process_have_closed() -> None:
    with open(os.devnull) as first, open(os.devnull) as second:
        budget = a_budget(0)
        calls: list[float] = []
        loop = asyncio.get_running_loop()

        def take() -> None:
            if budget.take(2):
                calls.append(loop.time())
            else:
                budget.wait(take)

        with capture_logs():
            budget.wait(take)
        await asyncio.sleep(0.15)  # one look finds nothing
        assert calls == []
        first.close()
        second.close()
        closed = loop.time()
        await eventually(lambda: bool(calls))
    assert calls[0] - closed < 1.0
    budget.shut_down()


class Counter:
    """Stands for the kernel's count, and remembers when it was asked."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[float] = []
        self._loop = loop
        monkeypatch.setattr(descriptors, "descriptors_counted_by_kernel", self.count)

    def count(self) -> int:
        self.asked.append(self._loop.time())
        return 1_000_000


def test_while_nobody_waits_nobody_counts_and_for_who_waits_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = ClockedLoop()
    try:
        budget = DescriptorBudget(loop, count_descriptors() + RESERVE)
        counter = Counter(loop, monkeypatch)
        loop.advance(10)
        assert counter.asked == []

        def wait() -> None:
            budget.wait(wait)

        with capture_logs():
            wait()
        loop.advance(10)
        assert 20 <= len(counter.asked) <= 30
        assert counter.asked[0] <= 1010.11
        budget.shut_down()
        loop.advance(10)
        assert len(counter.asked) <= 30
    finally:
        loop.close()


async def test_who_cannot_go_on_after_all_waits_behind_the_others() -> None:
    budget = a_budget(2)
    assert budget.take(2)
    calls: list[str] = []

    def greedy() -> None:
        calls.append("greedy")
        budget.wait(greedy)

    def modest() -> None:
        calls.append("modest")
        assert budget.take(2)

    with capture_logs():
        budget.wait(greedy)
        budget.wait(modest)
        budget.give(2)
        await eventually(lambda: "modest" in calls)
        assert calls == ["greedy", "modest"]
        budget.give(2)
        await eventually(lambda: len(calls) == 3)
    budget.shut_down()


def test_open_descriptors_are_counted() -> None:
    counted, by_kernel = open_descriptors(), descriptors_counted_by_kernel()
    with open(os.devnull), open(os.devnull):
        assert open_descriptors() == counted + 2
        assert descriptors_counted_by_kernel() == (None if by_kernel is None else by_kernel + 2)


@pytest.mark.skipif(descriptors_counted_by_kernel() is None, reason="before Linux 6.2 the kernel counts none")
async def test_what_a_waiting_thread_has_set_aside_is_counted_from_the_beginning() -> None:
    before = count_descriptors() - open_descriptors()
    with socket.create_server(("127.0.0.1", 0)) as server:
        waiting = asyncio.get_running_loop().run_in_executor(None, server.accept)
        try:
            await eventually(lambda: count_descriptors() - open_descriptors() > before)
            budget = a_budget(2)
            assert budget.free == 2
            budget.recount()
            assert budget.free == 2
        finally:
            with socket.create_connection(server.getsockname()):
                (await waiting)[0].close()


async def test_when_the_kernel_refuses_there_is_another_try_without_anything_given_back() -> None:
    budget = a_budget(2)
    calls: list[str] = []
    with capture_logs():
        budget.wait(lambda: calls.append("a"), refused_by_kernel=True)
    await eventually(lambda: calls == ["a"])


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.EMFILE, True), (errno.ENFILE, True), (errno.ENOMEM, True), (errno.ECONNABORTED, False)],
)
def test_shortages(code: int, *, expected: bool) -> None:
    assert is_shortage(OSError(code, "")) == expected


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    program = (
        "import resource; from userproxy.forwarding.descriptors import raise_limit;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (100, {hard}));"
        "print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(hard)] * 3
