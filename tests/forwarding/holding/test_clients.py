"""Clients who are held because there is no endpoint: real connections over a forwarder of one process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise

import pytest

from tests.forwarding.conftest import LOOPBACK, NAME, Bench, Serve, echo, eventually, open_bench
from tests.forwarding.handover.conftest import taken_over
from tests.forwarding.limits.bench import Client, answered, clients, turns
from userproxy.forwarding.descriptors import open_descriptors
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.model import Endpoint, Snapshot, Verdict
from userproxy.model.holding import MOST_HELD, HeldClients
from userproxy.model.reports import ConnectionState, Outcome


def hold(bench: Bench, seconds: float = 60.0) -> int:
    """Have a bench hold its clients; returns the port that they come to."""
    bench.forwarder.update(Snapshot(NAME, Verdict.SERVE, hold=seconds))
    return bench.address[1]


async def held(bench: Bench, count: int) -> None:
    async def are_held() -> bool:
        (figures,) = await bench.forwarder.data_plane.listeners()
        return figures.held == count

    async with asyncio.timeout(20):
        while not await are_held():
            await asyncio.sleep(0.005)


async def reasons(bench: Bench, outcome: Outcome = Outcome.REFUSED) -> list[str]:
    decisions = await bench.forwarder.data_plane.decisions()
    return [each.reason for each in decisions if each.verdict is outcome]


async def test_they_are_served_in_the_order_in_which_they_came_once_there_is_an_endpoint(
    bench: Bench, serve: Serve
) -> None:
    backend = await serve(echo)
    async with clients(hold(bench), 150) as several:
        await held(bench, 150)
        (states,) = {each.state for each in (await bench.forwarder.data_plane.connections()).items}
        assert states is ConnectionState.HELD
        assert not any(each.is_answered for each in several)
        bench.route_to(backend)
        await answered(several, 150)
        (states,) = {each.state for each in (await bench.forwarder.data_plane.connections()).items}
        assert states is ConnectionState.OPEN
        assert await bench.forwarder.data_plane.held_clients() == (HeldClients(NAME.service_port, 0, 150),)
    (figures,) = await bench.forwarder.data_plane.listeners()
    assert (figures.total, figures.failed, figures.refused, figures.held) == (150, 0, 0, 0)


async def test_the_first_who_came_is_dialled_for_first(bench: Bench) -> None:
    accepted: list[int] = []
    order: list[int] = []

    async with backend_in_order(accepted) as address, clients(hold(bench), 200) as several:
        await held(bench, 200)
        order = [each.id for each in (await bench.forwarder.data_plane.connections()).items]
        bench.route_to(address)
        await eventually(lambda: len(accepted) == 200)
        found = (await bench.forwarder.data_plane.connections()).items
        by_port = {each.dialled_from.port: each.id for each in found if each.dialled_from is not None}
        assert [by_port[port] for port in accepted] == order
        assert all(one < other for one, other in pairwise(order))
        assert len(several) == 200


@asynccontextmanager
async def backend_in_order(accepted: list[int]) -> AsyncIterator[tuple[str, int]]:
    """A backend that notes from which port each connection came, in the order of the kernel's queue."""
    writers = []

    async def handle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer.get_extra_info("peername")[1])
        writers.append(writer)

    server = await asyncio.start_server(handle, LOOPBACK, 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        for each in writers:
            each.close()


async def test_what_they_said_while_they_were_held_arrives(bench: Bench, serve: Serve) -> None:
    backend = await serve(echo)
    reader, writer = await asyncio.open_connection(LOOPBACK, hold(bench))
    said = bytes(range(256)) * 1024
    writer.write(said)
    await held(bench, 1)
    bench.route_to(backend)
    async with asyncio.timeout(20):
        assert await reader.readexactly(len(said)) == said
    writer.close()


@pytest.mark.parametrize("reset", [False, True])
async def test_one_who_leaves_frees_its_place_at_once(bench: Bench, *, reset: bool) -> None:
    before = open_descriptors()
    async with clients(hold(bench), 3) as several:
        await held(bench, 3)
        if reset:
            several[1].reset_on_close()
        several[1].close()
        await held(bench, 2)
        assert bench.forwarder.active == 2
        assert await reasons(bench, Outcome.RESET) == ["the client has left while it was held"]
    await held(bench, 0)
    await eventually(lambda: open_descriptors() == before)


async def test_one_beyond_the_limit_is_refused_at_once_and_the_others_stay(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("userproxy.forwarding.holding.places.MOST_HELD", 5)
    port = hold(bench)
    backend = await serve(echo)
    async with clients(port, 5) as several:
        await held(bench, 5)
        async with clients(port, 1) as (another,):
            with pytest.raises(ConnectionResetError):
                await another.answer()
        assert await reasons(bench) == [f"{MOST_HELD} clients are held, as many as may be (userproxy.io/hold)"]
        bench.route_to(backend)
        await answered(several, 5)


async def test_one_who_has_waited_for_too_long_is_refused(bench: Bench) -> None:
    async with clients(hold(bench, 1.0), 3) as several:
        for each in several:
            with pytest.raises(ConnectionResetError):
                await each.answer()
    assert await reasons(bench) == ["no endpoint has come within 1 s (userproxy.io/hold)"] * 3
    assert bench.forwarder.active == 0
    (figures,) = await bench.forwarder.data_plane.listeners()
    assert (figures.failed, figures.held) == (3, 0)


async def test_another_time_counts_at_once_and_none_ends_it(bench: Bench) -> None:
    async with clients(hold(bench), 2) as several:
        await held(bench, 2)
        hold(bench, 1.0)
        for each in several:
            with pytest.raises(ConnectionResetError):
                await each.answer()
    async with clients(hold(bench), 1) as (one,):
        await held(bench, 1)
        bench.forwarder.update(Snapshot(NAME, Verdict.REJECT))
        with pytest.raises(ConnectionResetError):
            await one.answer()
    assert (await reasons(bench))[-1] == "there is no endpoint"


async def test_without_the_annotation_they_are_refused_as_ever(bench: Bench) -> None:
    bench.forwarder.update(Snapshot(NAME, Verdict.SERVE))
    async with clients(bench.address[1], 1) as (one,):
        with pytest.raises(ConnectionResetError):
            await one.answer()
    assert await reasons(bench) == ["there is no endpoint"]
    assert await bench.forwarder.data_plane.held_clients() == ()


async def test_nobody_overtakes_one_who_waits_for_what_another_finds_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[int] = []
    waited: list[Dial] = []

    def waits_at_first(dial: Dial) -> bool:
        if dial not in waited and dial.id == 1:
            waited.append(dial)
            return True
        return False

    monkeypatch.setattr(Dial, "waits", property(waits_at_first))
    async with backend_in_order(accepted) as address, clients(hold(bench), 5):
        await held(bench, 5)
        bench.route_to(address)
        assert (await bench.forwarder.data_plane.held_clients())[0].now == 4, "the second waits for the first"
        await held(bench, 0)
        await eventually(lambda: len(accepted) == 5)


async def test_those_whose_endpoints_have_gone_once_more_are_held_on(bench: Bench, serve: Serve) -> None:
    backend = await serve(echo)
    port = hold(bench)
    async with clients(port, 100) as several:
        await held(bench, 100)
        bench.route_to(backend)
        hold(bench)  # before the others have had their turn
        await turns()
        bench.route_to(backend)
        await answered(several, 100)


async def test_a_listener_that_closes_holds_nobody(bench: Bench) -> None:
    async with clients(hold(bench), 100) as several:
        await held(bench, 100)
        bench.forwarder.close(NAME)
        for each in several:
            with pytest.raises(ConnectionResetError):
                await each.answer()
        await bench.eventually_idle()


async def test_all_are_ended_with_the_others(bench: Bench) -> None:
    async with clients(hold(bench), 3) as several:
        await held(bench, 3)
        assert bench.forwarder.reset_connections() == 3
        assert await reasons(bench, Outcome.RESET) == ["userproxy stops"] * 3
        for each in several:
            with pytest.raises(ConnectionResetError):
                await each.answer()


async def test_they_are_held_on_by_the_process_that_takes_over(serve: Serve) -> None:
    backend = await serve(echo)
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(open_bench())
        several: Sequence[Client] = await stack.enter_async_context(clients(hold(old), 20))
        await held(old, 20)
        new = await taken_over(old.forwarder)
        stack.callback(new.shut_down)
        bench = Bench(new, old.address[1])
        await held(bench, 20)
        new.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*backend),)))
        await answered(several, 20)


async def test_whoever_has_handed_them_over_has_nothing_to_do_with_them_any_more() -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(open_bench())
        several = await stack.enter_async_context(clients(hold(old, 2.0), 3))
        await held(old, 3)
        new = await taken_over(old.forwarder)
        stack.callback(new.shut_down)
        for each in several:
            with pytest.raises(ConnectionResetError):
                await each.answer()
        assert await reasons(Bench(new, 0)) == ["no endpoint has come within 2 s (userproxy.io/hold)"] * 3
        await turns()
    assert failures == []
