"""The tasks of a proxy."""

import asyncio
from collections.abc import Mapping

import pytest

from userproxy.errors import KernelToolError
from userproxy.wiring.tasks import run_until


async def forever() -> None:
    await asyncio.Event().wait()


async def test_tasks_run_by_their_names_until_the_stop_and_while_the_process_leaves() -> None:
    stop, seen = asyncio.Event(), []

    async def leave(tasks: Mapping[str, asyncio.Task[None]]) -> bool:
        seen.append({name: (task.get_name(), task.done()) for name, task in tasks.items()})
        return False

    stop.set()
    assert await run_until(stop, {"a": forever(), "b": forever()}, leave) is False
    assert seen == [{"a": ("a", False), "b": ("b", False)}]


async def test_an_error_of_ours_ends_all_and_is_raised_alone() -> None:
    async def fail() -> None:
        raise KernelToolError("healthz: cannot listen")

    async def leave(_tasks: Mapping[str, asyncio.Task[None]]) -> bool:
        return True

    with pytest.raises(KernelToolError, match=r"^healthz: cannot listen$"):
        await run_until(asyncio.Event(), {"a": forever(), "b": fail()}, leave)


async def test_a_bug_is_raised_with_its_group() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def leave(_tasks: Mapping[str, asyncio.Task[None]]) -> bool:
        return True

    with pytest.raises(ExceptionGroup) as caught:
        await run_until(asyncio.Event(), {"a": fail()}, leave)
    assert caught.group_contains(ZeroDivisionError)
