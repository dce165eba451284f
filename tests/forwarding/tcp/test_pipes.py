"""Pipes are few, lent empty, counted, and taken away where they are of no use."""

import asyncio
import errno
import fcntl
import os
from collections.abc import AsyncIterator

import pytest

from tests.forwarding.clocked import Clock
from tests.forwarding.own_descriptors import OwnDescriptors
from userproxy.forwarding.descriptors import RESERVE, DescriptorBudget, count_descriptors
from userproxy.forwarding.tcp import pipes as pipes_module
from userproxy.forwarding.tcp.pipes import MOST_PIPES, PIPE_BYTES, STALL_SECONDS, Pipe, PipePool


async def a_pool(free: int = 1000, clock: Clock | None = None) -> PipePool:
    budget = DescriptorBudget(asyncio.get_running_loop(), count_descriptors() + RESERVE + free)
    return PipePool(budget, clock or Clock())


async def test_a_pipe_holds_as_much_as_may_be() -> None:
    pool = await a_pool()
    pipe = pool.borrow()
    assert pipe is not None
    assert os.write(pipe.write_end, bytes(PIPE_BYTES)) == PIPE_BYTES
    pipe.fill = PIPE_BYTES
    pool.give_back(pipe)
    pool.close()


async def test_there_are_only_so_many() -> None:
    pool = await a_pool()
    pipes = [pool.borrow() for _ in range(MOST_PIPES)]
    assert None not in pipes
    assert pool.borrow() is None
    for pipe in pipes:
        assert pipe is not None
        pool.give_back(pipe)
    assert pool.borrow() is pipes[-1]
    pool.give_back(pipes[-1])  # type: ignore[arg-type]
    pool.close()


async def test_one_with_bytes_in_it_is_never_lent_again() -> None:
    pool = await a_pool()
    pipe = pool.borrow()
    assert pipe is not None
    pipe.fill = os.write(pipe.write_end, b"somebody's")
    pool.give_back(pipe)
    other = pool.borrow()
    assert other is not None
    assert other is not pipe
    assert other.fill == 0
    pool.give_back(other)
    pool.close()


async def test_without_descriptors_there_is_none() -> None:
    pool = await a_pool(free=1)
    assert pool.borrow() is None


async def test_closing_gives_the_descriptors_back() -> None:
    own = OwnDescriptors()
    pool = await a_pool()
    pipe = pool.borrow()
    assert pipe is not None
    pool.give_back(pipe)
    assert len(own) == 2
    pool.close()
    assert not len(own)


def left(budget: DescriptorBudget) -> int:
    """How many descriptors may still be taken, found out by taking them."""
    count = 0
    while budget.take(1):
        count += 1
    budget.give(count)
    return count


async def test_a_pipe_counts_as_two_descriptors_until_it_is_closed() -> None:
    budget = DescriptorBudget(asyncio.get_running_loop(), count_descriptors() + RESERVE + 10)
    pool = PipePool(budget, Clock())
    pipe = pool.borrow()
    assert pipe is not None
    assert left(budget) == 8
    pool.give_back(pipe)
    assert left(budget) == 8
    pool.close()
    assert left(budget) == 10


async def test_the_last_two_descriptors_make_a_pipe() -> None:
    pool = await a_pool(free=2)
    pipe = pool.borrow()
    assert pipe is not None
    pool.give_back(pipe)
    pool.close()


async def test_where_the_kernel_makes_none_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_flags: int) -> tuple[int, int]:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    budget = DescriptorBudget(asyncio.get_running_loop(), count_descriptors() + RESERVE + 10)
    monkeypatch.setattr(os, "pipe2", refuse)
    assert PipePool(budget, Clock()).borrow() is None
    assert left(budget) == 10


async def test_over_the_users_quota_a_small_pipe_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    pool = await a_pool()
    pipe = pool.borrow()
    assert pipe is not None
    pipe.fill = os.write(pipe.write_end, b"small")
    pool.give_back(pipe)


async def test_a_pipe_blocks_nobody_and_is_no_childs() -> None:
    pool = await a_pool()
    pipe = pool.borrow()
    assert pipe is not None
    for end in (pipe.read_end, pipe.write_end):
        assert not os.get_blocking(end)
        assert not os.get_inheritable(end)
    pool.give_back(pipe)
    pool.close()


class Crowd:
    """A pool whose pipes are all lent. Each holds its own number, `stuck` ones wait for their sink."""

    def __init__(self, pool: PipePool, clock: Clock) -> None:
        self.pool = pool
        self.clock = clock
        self.lent: list[Pipe] = []
        self.kept: dict[int, bytes] = {}
        while (pipe := pool.borrow()) is not None:
            pipe.fill = os.write(pipe.write_end, b"%d" % len(self.lent))
            self.lent.append(pipe)

    def stuck(self, *numbers: int) -> None:
        for number in numbers:
            self.pool.stuck(self.lent[number], lambda data, number=number: self.kept.__setitem__(number, data))  # type: ignore[misc]


@pytest.fixture
async def crowd(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crowd]:
    monkeypatch.setattr(pipes_module, "MOST_PIPES", 3)
    clock = Clock()
    pool = await a_pool(clock=clock)
    opened = Crowd(pool, clock)
    yield opened
    for pipe in opened.lent:
        pool.give_back(pipe)
    pool.close()


async def test_the_pipe_that_was_stuck_for_longest_is_taken_away_with_its_content_kept(crowd: Crowd) -> None:
    crowd.stuck(1)
    crowd.clock.now += STALL_SECONDS / 2
    crowd.stuck(0)
    crowd.clock.now += STALL_SECONDS / 2
    pipe = crowd.pool.borrow()
    assert pipe is crowd.lent[1]
    assert (pipe.fill, crowd.kept) == (0, {1: b"1"})
    assert crowd.pool.borrow() is None, "the other has not been stuck for long enough"
    crowd.clock.now += STALL_SECONDS / 2
    assert crowd.pool.borrow() is crowd.lent[0]
    assert crowd.pool.borrow() is None, "the third is not stuck"


async def test_a_pipe_whose_sink_has_taken_something_is_left_alone(crowd: Crowd) -> None:
    crowd.stuck(0, 1, 2)
    crowd.clock.now += STALL_SECONDS
    crowd.stuck(0)
    crowd.pool.moves(crowd.lent[1])
    assert crowd.pool.borrow() is crowd.lent[2]
    assert crowd.pool.borrow() is None


async def test_a_pipe_that_was_given_back_is_not_taken_away(crowd: Crowd) -> None:
    crowd.stuck(0)
    crowd.clock.now += STALL_SECONDS
    crowd.pool.give_back(crowd.lent.pop(0))  # with bytes in it: closed, and a new one takes its place
    crowd.lent.append(crowd.pool.borrow())  # type: ignore[arg-type]
    assert crowd.pool.borrow() is None
    assert not crowd.kept


async def test_no_more_is_kept_than_there_is_room_for(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes_module, "MOST_KEPT", 1)
    crowd.stuck(0, 1)
    crowd.clock.now += STALL_SECONDS
    assert crowd.pool.borrow() is crowd.lent[0]
    assert crowd.pool.borrow() is None
    crowd.pool.let_go(1)
    assert crowd.pool.borrow() is crowd.lent[1]
