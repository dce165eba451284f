"""Pipes are few, lent empty, and counted."""

import asyncio
import os

from userproxy.forwarding.descriptors import RESERVE, DescriptorBudget, open_descriptors
from userproxy.forwarding.pipes import MOST_PIPES, PIPE_BYTES, PipePool


async def a_pool(free: int = 1000) -> PipePool:
    return PipePool(DescriptorBudget(asyncio.get_running_loop(), open_descriptors() + RESERVE + free))


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
    before = open_descriptors()
    pool = await a_pool()
    pipe = pool.borrow()
    assert pipe is not None
    pool.give_back(pipe)
    assert open_descriptors() == before + 2
    pool.close()
    assert open_descriptors() == before
