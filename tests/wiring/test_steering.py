"""Drains of a proxy: connections are closed in time, and a successor goes on with them."""

import asyncio
import os

import msgspec
import pytest
from structlog.testing import capture_logs

from userproxy.model import Endpoint, ServiceName
from userproxy.model.faults import Fault
from userproxy.model.reports import Query
from userproxy.model.steering import Drain
from userproxy.proxier.drains.table import DrainState
from userproxy.wiring.steering import Drains

WEB = ServiceName("default", "web")
ONE = Endpoint("10.0.0.1", 80)
ONE_OF_THREE = Endpoint("10.0.0.1", 1)


class Steered:
    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[Query, str]] = asyncio.Queue()
        self.faults: tuple[Fault, ...] = ()

    def put_faults(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults

    async def close_connections(self, query: Query, reason: str) -> int:
        self.told.put_nowait((query, reason))
        return 1


class Broken(Steered):
    """Fails with the first drain."""

    async def close_connections(self, query: Query, reason: str) -> int:
        is_first = query.endpoint == ONE_OF_THREE
        await super().close_connections(query, reason)
        if is_first:
            raise ValueError("a bug")
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


async def test_what_cannot_be_closed_is_told_of_and_costs_no_other_drain() -> None:
    steering, now = Broken(), asyncio.get_running_loop().time()
    drains = Drains(steering)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in drains.tasks().values()]
        with capture_logs() as records:
            for number in range(3):
                drains.table.put(Drain(WEB, Endpoint("10.0.0.1", number + 1), now, 0.0, None, now + 0.01 * number))
            found = [(await steering.told.get())[0].endpoint for _ in range(3)]
        for task in tasks:
            task.cancel()
    assert [each.port for each in found if each is not None] == [1, 2, 3]
    (told,) = [record for record in records if record["log_level"] == "error"]
    assert (told["service"], told["endpoint"]) == ("default/web", "10.0.0.1:1")
    drains.close()


async def test_a_drain_that_fell_due_before_the_take_over_closes_once_connections_are_ours() -> None:
    steering, now = Steered(), asyncio.get_running_loop().time()
    after = Drains(steering)
    memory = os.memfd_create("test")
    state = DrainState((Drain(WEB, ONE, now, 5.0, None, now - 1.0),))
    os.write(memory, msgspec.msgpack.encode(state))
    after.adopt(memory)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in after.tasks().values()]
        after.go_on()
        await steering.told.get()
        for task in tasks:
            task.cancel()
    after.close()


async def test_a_successor_goes_on_with_all_drains() -> None:
    now = asyncio.get_running_loop().time()
    before, after = Drains(Steered()), Drains(Steered())
    before.descriptor()
    for number in range(300):
        before.table.put(Drain(WEB, Endpoint("10.0.0.1", number + 1), now, 5.0, now + 3600))
    before.table.end(WEB, ONE)
    after.adopt(os.dup(before.descriptor()))
    assert after.table.all() == [], "its predecessor serves on"
    after.go_on()
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
