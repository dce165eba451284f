"""The tasks of a proxy, from its start to its stop."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from userproxy.errors import UserproxyError


async def run_until(
    stop: asyncio.Event,
    eternal: Mapping[str, Coroutine[Any, Any, None]],
    leave: Callable[[Mapping[str, asyncio.Task[None]]], Awaitable[bool]],
) -> bool:
    """Run coroutines that never end, as tasks with these names, until `stop` is set; then returns what `leave` does.

    Raises what one of them raises, of several errors of ours the first.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(coroutine, name=name) for name, coroutine in eternal.items()}
            await stop.wait()
            clean = await leave(tasks)
            for task in tasks.values():
                task.cancel()
    except ExceptionGroup as errors:
        raise _sentence(errors) or errors from None
    return clean


def _sentence(error: Exception) -> UserproxyError | None:
    """The first error of a group that is one of ours: its text is all that a person needs."""
    if isinstance(error, UserproxyError):
        return error
    inner = error.exceptions if isinstance(error, ExceptionGroup) else ()
    return next((found for found in map(_sentence, inner) if found), None)
