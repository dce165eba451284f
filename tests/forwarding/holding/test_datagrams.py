"""Datagrams that are held because there is no endpoint: real sockets on loopback, on both loops."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.forwarding.conftest import eventually
from tests.forwarding.udp.bench import Bench, open_bench, received
from userproxy.forwarding.holding.datagrams import MOST_BYTES
from userproxy.model import Snapshot, Verdict
from userproxy.model.reports import Outcome


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as opened:
        yield opened


def hold(bench: Bench, seconds: float | None = 60.0, verdict: Verdict = Verdict.SERVE) -> None:
    snapshot = Snapshot(bench.listener.name, verdict, hold=seconds)
    bench.listener.balancer.update(snapshot)
    bench.listener.follow(snapshot)


async def held(bench: Bench, count: int) -> None:
    await eventually(lambda: bench.listener.statistics.held == count)


async def drained(bench: Bench) -> None:
    """The listener has read all that has come."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_last_of_each_client_arrives_in_the_order_in_which_clients_came(bench: Bench) -> None:
    hold(bench)
    several = [bench.client() for _ in range(150)]
    for number, client in enumerate(several):
        client.send(b"too early")
        client.send(b"the last of %d" % number)
    await held(bench, 150)
    await drained(bench)
    backend = bench.backend()
    bench.route(backend)
    for number in range(150):
        assert await received(backend) == b"the last of %d" % number
    with pytest.raises(BlockingIOError):
        backend.recv(100)
    statistics = bench.listener.statistics
    assert (statistics.datagrams_up, statistics.unserved, statistics.held, statistics.accepted) == (150, 0, 0, 150)


@pytest.mark.parametrize("size", [0, 1, 1350, 9000, 65_507])
async def test_of_any_size(bench: Bench, size: int) -> None:
    hold(bench)
    client, backend = bench.client(), bench.backend()
    datagram = Random(size).randbytes(size)
    client.send(datagram)
    await held(bench, 1)
    bench.route(backend)
    assert await received(backend) == datagram


async def test_those_without_room_are_lost_and_the_first_are_held_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("userproxy.forwarding.holding.places.MOST_HELD", 3)
    places = bench.plane.places.of(bench.listener.name.service_port)
    hold(bench)
    several = [bench.client() for _ in range(5)]
    for number, client in enumerate(several):
        client.send(b"%d" % number)
    await eventually(lambda: bench.listener.statistics.unserved == 2)
    several[0].send(b"0 again")
    await drained(bench)
    assert places.held == 3
    backend = bench.backend()
    bench.route(backend)
    assert [await received(backend) for _ in range(3)] == [b"0 again", b"1", b"2"]
    assert places.held == 0


async def test_what_another_process_has_held_is_held_on_as_if_it_had_come_here(bench: Bench) -> None:
    hold(bench)
    several = [bench.client() for _ in range(3)]
    for number, client in enumerate(several):
        client.send(b"%d" % number)
    await held(bench, 3)
    found = list(bench.listener.held_datagrams())
    assert [peer for peer, _ in found] == [client.getsockname() for client in several]
    hold(bench, None, Verdict.REJECT)
    for _, each in found:
        bench.listener.adopt_held(each)
    assert bench.listener.statistics.held == 0, "nothing is to be held"
    hold(bench)
    for _, each in found:
        bench.listener.adopt_held(each)
    assert [each for _, each in bench.listener.held_datagrams()] == [each for _, each in found]
    backend = bench.backend()
    bench.route(backend)
    assert [await received(backend) for _ in range(3)] == [b"0", b"1", b"2"]


async def test_bytes_are_bounded(bench: Bench) -> None:
    hold(bench)
    most = MOST_BYTES // 60_000
    for number in range(most + 3):
        bench.client().send(bytes(60_000))
        await eventually(
            lambda number=number: (  # type: ignore[misc]
                bench.listener.statistics.held + bench.listener.statistics.unserved == number + 1
            )
        )
    assert (bench.listener.statistics.held, bench.listener.statistics.unserved) == (most, 3)


async def test_one_that_has_waited_for_too_long_is_lost(bench: Bench) -> None:
    hold(bench, 1.0)
    bench.client().send(b"?")
    await held(bench, 1)
    await held(bench, 0)
    (entry,) = bench.listener.decisions
    assert (entry[5], entry[6]) == (Outcome.DROPPED, "no endpoint has come within 1 s (userproxy.io/hold)")
    assert bench.listener.statistics.unserved == 1


async def test_those_of_a_listener_that_is_to_refuse_or_closes_are_lost(bench: Bench) -> None:
    places = bench.plane.places.of(bench.listener.name.service_port)
    for closes in (False, True):
        hold(bench)
        bench.client().send(b"?")
        await held(bench, 1)
        if closes:
            bench.listener.close()
        else:
            hold(bench, None, Verdict.REJECT)
        assert (bench.listener.statistics.held, places.held) == (0, 0)
