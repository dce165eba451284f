"""How long a loop's thread works between two turns of the loop, in which alone traffic is served."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """The longest turn so far, in seconds of the thread's own CPU: what else the machine does is no fault of ours.

    `count` is how many there were.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.count = 0

    async def watch(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            self.count += 1
            self.longest = max(self.longest, time.thread_time() - before)


@asynccontextmanager
async def watched_turns() -> AsyncIterator[Turns]:
    turns = Turns()
    gc.disable()  # it would walk through all that the other tests have left
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(turns.watch(), name="turns")
            await asyncio.sleep(0)
            yield turns
            await asyncio.sleep(0)
            task.cancel()
    finally:
        gc.enable()
