"""How many UDP flows a service port may have, over listeners and processes."""

import asyncio
import math
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.forwarding.conftest import eventually
from tests.processes.control.test_briefing import ask_all, clients, echoes, serve
from tests.processes.control.test_forwarding import UDP_NAME, all_ready, forwarding, heard, pids
from userproxy.forwarding.accept_turns import open_tally
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.forwarding.limits.flows import FlowLimits
from userproxy.forwarding.udp.losses import MOST
from userproxy.model import Limits, Overflow, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.processes.control.forwarding import ProcessForwarder

NAME = ServicePortName("default", "dns", "dns", Protocol.UDP)
SIX = Limits(6, Overflow.REFUSE)


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = open_tally()
    yield descriptor
    os.close(descriptor)


def test_flows_of_all_listeners_of_a_service_port_count() -> None:
    limits, one, two = FlowLimits(), [1, 2], [3]
    limit = limits.of(NAME, 4)
    for flows in (one, two):
        limit.join(flows)
    assert limit.admits()
    two.append(4)
    assert not limit.admits()
    assert limits.of(NAME, 5) is limit
    assert limit.admits()
    limits.of(NAME, 2)
    limit.leave(one)
    assert not limit.admits()
    limit.leave(two)
    assert limit.admits()


def test_flows_of_all_processes_count(memory: int) -> None:
    def column_of(place: int) -> FlowLimits:
        return FlowLimits(lambda _: LimitCounts(memory, 2, place).column(3), 2)

    flows: list[list[int]] = [[], []]
    several = [column_of(place).of(NAME, 5) for place in range(2)]
    for limit, its in zip(several, flows, strict=True):
        limit.join(its)
    for number in range(5):
        assert several[number % 2].admits()
        flows[number % 2].append(number)
        several[number % 2].write()
    assert [each.admits() for each in several] == [False, False]
    flows[1].pop()
    several[1].write()
    assert several[0].admits()


def test_where_they_are_not_counted_together_each_process_has_its_part() -> None:
    limit = FlowLimits(processes=4).of(NAME, 9)
    flows = [1]
    limit.join(flows)
    assert limit.admits()
    flows.append(2)
    assert not limit.admits()


async def served(several: list[socket.socket], rounds: int = 1) -> int:
    """How many clients get an answer, who ask once more if need be."""
    found = set[int]()
    loop = asyncio.get_running_loop()

    def answered(number: int) -> None:
        loop.remove_reader(several[number])
        found.add(number)

    for number, each in enumerate(several):
        loop.add_reader(each, answered, number)
    for _ in range(rounds):
        for each in several:
            each.send(b"x")
        await eventually(lambda: len(found) >= 6)
    for each in several:
        loop.remove_reader(each)
    return len(found)


@pytest.mark.parametrize("processes", [1, 2])
async def test_so_many_clients_have_flows_and_others_get_no_answer(processes: int) -> None:
    async with forwarding(processes) as forwarder, echoes() as endpoints:
        port = serve(forwarder, endpoints, limits=SIX)
        await all_ready(forwarder)
        await heard(forwarder)
        with clients(port) as several:
            assert await served(several) == 6
            await heard(forwarder)
            (figures,) = await forwarder.data_plane.listeners()
            assert (figures.active, figures.total, figures.limited) == (6, 6, len(several) - 6)
            reasons = {each.reason for each in await forwarder.data_plane.decisions()}
            assert reasons == {"there are 6 flows, as many as userproxy.io/max-connections allows"}
            forwarder.update(Snapshot(UDP_NAME, Verdict.SERVE, endpoints))
            await heard(forwarder)
            assert set(await ask_all(several)) == {b"0", b"1"}, "without a limit all are served"


async def test_a_flood_of_clients_takes_no_flow_of_those_who_were_there_and_is_told_of_in_few_words() -> None:
    """Of 300 clients who ask three times each, nobody has a flow; the limit is one over both processes."""
    async with forwarding(2) as forwarder, echoes() as endpoints:
        port = serve(forwarder, endpoints, limits=SIX)
        await all_ready(forwarder)
        await heard(forwarder)
        with clients(port, 6) as early, clients(port, 300) as late:
            first = await ask_all(early)
            began = asyncio.get_running_loop().time()
            for count in range(1, 4):
                for each in late:
                    each.send(b"x")
                assert await ask_all(early) == first, "they are served on"
                await eventually_refused(forwarder, count * len(late))
            (figures,) = await forwarder.data_plane.listeners()
            assert (figures.active, figures.total) == (6, 6)
            windows = math.ceil(asyncio.get_running_loop().time() - began) + 1
            assert len(await forwarder.data_plane.decisions(last=10_000)) <= 2 * MOST * windows


async def eventually_refused(forwarder: ProcessForwarder, count: int) -> None:
    async with asyncio.timeout(20):
        while (await forwarder.data_plane.listeners())[0].limited != count:
            await asyncio.sleep(0.02)


async def test_what_a_process_had_that_dies_is_free_for_others() -> None:
    async with forwarding(2) as forwarder, echoes() as endpoints:
        port = serve(forwarder, endpoints, limits=SIX)
        await all_ready(forwarder)
        await heard(forwarder)
        with ExitStack() as stack:
            assert await served(stack.enter_context(clients(port))) == 6
            for victim in pids(forwarder):
                os.kill(victim, 9)
            await eventually(lambda: len(pids(forwarder)) == 2)
            await all_ready(forwarder)
            await heard(forwarder)
            assert await served(stack.enter_context(clients(port)), rounds=2) >= 6
