"""Drains of a proxy: connections are closed in time, and a successor goes on with them."""

import asyncio
import os

import pytest

from userproxy.model import Endpoint, ServiceName
from userproxy.model.faults import Fault
from userproxy.model.reports import Query
from userproxy.model.steering import Drain
from userproxy.wiring.steering import Drains

WEB = ServiceName("default", "web")
ONE = Endpoint("10.0.0.1", 80)


class Steered:
    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[Query, str]] = asyncio.Queue()
        self.faults: tuple[Fault, ...] = ()

    def put_faults(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults

    async def close_connections(self, query: Query, reason: str) -> int:
        self.told.put_nowait((query, reason))
        return 1


async def test_connections_are_closed_when_it_is_time() -> None:
    steering, now = Steered(), asyncio.get_running_loop().time()
    drains = Drains(steering)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in drains.tasks().values()]
        drains.table.put(Drain(WEB, ONE, now, 0.0, None, now + 0.01))
        query, reason = await steering.told.get()
        for task in tasks:
            task.cancel()
    assert (query, reason) == (Query("default", "web", endpoint=ONE), "the endpoint is drained")
    drains.close()


async def test_a_successor_goes_on_with_all_drains() -> None:
    now = asyncio.get_running_loop().time()
    before, after = Drains(Steered()), Drains(Steered())
    before.descriptor()
    for number in range(300):
        before.table.put(Drain(WEB, Endpoint("10.0.0.1", number + 1), now, 5.0, now + 3600))
    before.table.end(WEB, ONE)
    after.adopt(os.dup(before.descriptor()))
    assert after.table.state() == before.table.state()
    for each in (before, after):
        each.close()


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x80", b"x" * 5000])
async def test_what_cannot_be_read_is_no_drain(content: bytes) -> None:
    drains, memory = Drains(Steered()), os.memfd_create("test")
    os.write(memory, content)
    drains.adopt(memory)
    assert drains.table.all() == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(memory)
    drains.close()
