"""Waiting without a fixed time."""

import asyncio
from collections.abc import Callable

from userproxy.demo.waiting import Deadline


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Let the loop run until `condition` holds; fails after `seconds` (see :class:`Deadline`)."""
    deadline = Deadline(seconds)
    while not condition():
        assert deadline.left, "the condition did not come true in time"
        await asyncio.sleep(0.005)
