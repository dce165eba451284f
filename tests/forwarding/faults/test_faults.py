"""Connections that suffer faults: real sockets on loopback, on both loops."""

import asyncio
import time
from random import Random

import pytest

from tests.forwarding.conftest import NAME, Bench, Connected, Serve, echo, eventually, snapshot
from tests.forwarding.observation.recorded import recorded
from userproxy.forwarding.faults.stream import FaultedRelay
from userproxy.forwarding.tcp.direction import BUFFER_BYTES
from userproxy.forwarding.tcp.pipes import PIPE_BYTES
from userproxy.forwarding.tcp.sockets import unacknowledged
from userproxy.model import Endpoint, Protocol
from userproxy.model.capture import CaptureRequest, Leg
from userproxy.model.faults import (
    Bandwidth,
    Blackhole,
    Direction,
    Effect,
    Fault,
    Latency,
    Refuse,
    ResetAfterBytes,
    ResetAfterSeconds,
)
from userproxy.model.reports import Outcome, Query

LATENCY = 0.1


def fault(effect: Effect, number: int = 1, seconds: float = 60.0, **terms: object) -> Fault:
    now = time.monotonic()
    given = {"endpoint": None, "client": "", "percent": 100.0, **terms}
    return Fault(number, NAME.service_port.service, effect, now, 0.0, now + seconds, **given)  # type: ignore[arg-type]


def put(bench: Bench, *faults: Fault) -> None:
    bench.forwarder.steering.put_faults(faults)


async def settled(bench: Bench) -> None:
    """All connections have taken notice of the faults."""
    await eventually(lambda: bench.forwarder.faults.is_settled)


async def routed(bench: Bench, serve: Serve) -> Endpoint:
    endpoint = Endpoint(*await serve(echo))
    bench.forwarder.update(snapshot(NAME, endpoint))
    return endpoint


async def asked(bench: Bench) -> bytes:
    """The first byte that a new connection hears."""
    reader, writer = await bench.connect()
    try:
        return await reader.readexactly(1)
    finally:
        writer.close()


async def timed(client: Connected) -> float:
    """Seconds that a question takes."""
    began = time.monotonic()
    assert await client.is_alive()
    return time.monotonic() - began


async def test_latency_is_seen_once_a_question_and_by_its_endpoint_alone(bench: Bench, serve: Serve) -> None:
    slow, fast = Endpoint(*await serve(echo)), Endpoint(*await serve(echo))
    bench.forwarder.update(snapshot(NAME, slow, fast))
    put(bench, fault(Latency(LATENCY), endpoint=slow))
    clients = [await Connected.to(bench.address[1]) for _ in range(4)]
    reports = (await bench.forwarder.data_plane.connections()).items
    taken = [await timed(client) for client in clients]
    concerned = [report.endpoint == slow for report in reports]
    assert sum(concerned) == 2
    assert [seconds >= LATENCY for seconds in taken] == concerned
    for client in clients:
        client.writer.close()


async def test_it_comes_over_those_that_are_open_and_goes_again(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    client = await Connected.to(bench.address[1])
    put(bench, fault(Latency(LATENCY)))
    await settled(bench)
    assert await timed(client) >= LATENCY
    assert len(bench.forwarder.faults.suffering) == 1
    put(bench)
    await settled(bench)
    assert not bench.forwarder.faults.suffering
    assert await timed(client) < LATENCY
    client.writer.close()


@pytest.mark.bugs
async def test_a_connection_at_which_looking_fails_ends_and_the_others_get_the_fault(
    bench: Bench, serve: Serve
) -> None:
    broken, fine = Endpoint(*await serve(echo)), Endpoint(*await serve(echo))
    bench.forwarder.update(snapshot(NAME, broken, fine))
    clients = [await Connected.to(bench.address[1]) for _ in range(6)]
    put(bench, fault(Latency(LATENCY)), fault(Latency(0.0), 2, endpoint=broken, client="no network"))
    await settled(bench)
    assert sum([await client.is_alive() for client in clients]) == 3
    assert len(bench.forwarder.faults.suffering) == 3
    assert bench.forwarder.handler_failures[Protocol.TCP] == 3
    for client in clients:
        client.writer.close()


async def test_it_is_over_in_time(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    put(bench, fault(Latency(0.01), seconds=0.2))
    client = await Connected.to(bench.address[1])
    assert len(bench.forwarder.faults.suffering) == 1
    await eventually(lambda: not bench.forwarder.faults.suffering)
    assert bench.forwarder.faults.current == ()
    assert await client.is_alive()
    client.writer.close()


EFFECTS: list[tuple[Effect, ...]] = [
    (Latency(0.02, 0.01, Direction.BOTH),),
    (Bandwidth(4_000_000),),
    (Latency(0.01, 0.005, Direction.BOTH), Bandwidth(8_000_000)),
    (ResetAfterBytes(10**9),),
    (ResetAfterSeconds(600.0),),
]


@pytest.mark.parametrize("effects", EFFECTS, ids=str)
@pytest.mark.parametrize("during", [False, True], ids=["whole", "changing"])
async def test_bytes_stay_whole_and_ends_are_passed_on(
    bench: Bench, serve: Serve, effects: tuple[Effect, ...], *, during: bool
) -> None:
    """A megabyte each way, in pieces of all sizes, then a half-close; with faults that come and go."""
    random = Random(str(effects))
    heard = bytearray()

    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(random.choice([10, 1000, 100_000])):
            heard.extend(data)
        writer.write(heard[::-1])
        await writer.drain()

    bench.forwarder.update(snapshot(NAME, Endpoint(*await serve(answer_at_the_end))))
    faults = [fault(effect, number) for number, effect in enumerate(effects, 1)]
    put(bench, *faults)
    reader, writer = await bench.connect()
    said = random.randbytes(1_000_000)
    start = 0
    while start < len(said):
        size = random.choice([1, 100, 5000, 100_000])
        writer.write(said[start : start + size])
        await writer.drain()
        start += size
        if during and random.random() < 0.3:
            put(bench, *(faults if random.random() < 0.5 else ()))
            await asyncio.sleep(0)
    writer.write_eof()
    async with asyncio.timeout(30):
        assert await reader.read() == said[::-1]
    assert bytes(heard) == said
    writer.close()
    await eventually(lambda: not bench.forwarder.faults.suffering)
    assert (bench.forwarder.active, bench.forwarder.faults.waiting) == (0, 0)
    (decision,) = await bench.forwarder.data_plane.decisions()
    assert (decision.verdict, decision.bytes_up, decision.bytes_down) == (Outcome.SERVED, len(said), len(said))


async def test_a_rate_is_kept(bench: Bench, serve: Serve) -> None:
    size, rate = 200_000, 400_000

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(size))
        await writer.drain()

    bench.forwarder.update(snapshot(NAME, Endpoint(*await serve(pour))))
    put(bench, fault(Bandwidth(rate)))
    began = time.monotonic()
    reader, writer = await bench.connect()
    assert len(await reader.read(-1)) == size
    assert time.monotonic() - began >= 0.9 * size / rate
    writer.close()


@pytest.mark.parametrize(
    ("effects", "most"),
    [
        ((Bandwidth(100_000_000), Latency(0.05)), PIPE_BYTES),
        ((Bandwidth(100_000_000),), BUFFER_BYTES),
        ((Bandwidth(1_000_000),), BUFFER_BYTES),
    ],
    ids=str,
)
async def test_who_does_not_read_has_no_more_kept_than_a_pipe_holds_or_throttled_a_buffer(
    bench: Bench, serve: Serve, effects: tuple[Effect, ...], most: int
) -> None:
    sent = 0

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(bytes(65_536))
            await writer.drain()
            sent += 65_536

    bench.forwarder.update(snapshot(NAME, Endpoint(*await serve(pour))))
    put(bench, *(fault(effect, number) for number, effect in enumerate(effects, 1)))
    reader, writer = await bench.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    seen = -1
    while seen != sent:
        seen = sent
        await asyncio.sleep(0.3)
    assert 0 < bench.forwarder.faults.waiting <= most
    writer.transport.abort()
    await eventually(lambda: not bench.forwarder.faults.suffering)
    assert bench.forwarder.faults.waiting == 0
    assert reader is not None


async def test_nothing_passes_a_blackhole_and_nothing_is_lost_in_it(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    old = await Connected.to(bench.address[1])
    put(bench, fault(Blackhole()))
    await settled(bench)
    reader, writer = await bench.connect()
    for each in (writer, old.writer):
        each.write(b"hello")
        each.write_eof()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    assert [(each.bytes_up, each.bytes_down) for each in (await bench.forwarder.data_plane.connections()).items] == [
        (1, 1),
        (0, 0),
    ]
    put(bench)
    assert (await reader.read(), await old.reader.read()) == (b"hello", b"hello")
    for each in (writer, old.writer):
        each.close()
    await bench.eventually_idle()


async def test_who_leaves_within_a_blackhole_has_left_after_it(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    put(bench, fault(Blackhole()))
    client = await bench.connect()
    await eventually(lambda: len(bench.forwarder.faults.suffering) == 1)
    client[1].transport.abort()
    put(bench)
    await bench.eventually_idle()


async def test_reset_after_bytes(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    put(bench, fault(ResetAfterBytes(5000)))
    reader, writer = await bench.connect()
    writer.write(bytes(2500))
    assert await reader.readexactly(2500) == bytes(2500)
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    await bench.eventually_idle()
    (decision,) = await bench.forwarder.data_plane.decisions()
    assert (decision.verdict, decision.reason) == (Outcome.RESET, "fault 1: reset after 5KB")
    writer.close()


async def test_all_that_may_pass_arrives_before_the_reset(bench: Bench, serve: Serve) -> None:
    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(1_000_000))
        await writer.drain()

    bench.forwarder.update(snapshot(NAME, Endpoint(*await serve(pour))))
    put(bench, fault(ResetAfterBytes(64_000)))
    reader, writer = await bench.connect()
    assert await reader.readexactly(64_000) == bytes(64_000)
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()


async def test_a_fault_that_is_cleared_resets_nobody_who_has_had_all_that_may_pass(bench: Bench, serve: Serve) -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(20_000_000))
        await writer.drain()
        await echo(reader, writer)

    bench.forwarder.update(snapshot(NAME, Endpoint(*await serve(pour))))
    put(bench, fault(ResetAfterBytes(16_000_000)))
    reader, writer = await bench.connect()
    await eventually(lambda: len(bench.forwarder.faults.suffering) == 1)
    (faulted,) = bench.forwarder.faults.suffering.values()
    assert isinstance(faulted, FaultedRelay)
    await eventually(lambda: unacknowledged(faulted._sockets[0]) > 0 and faulted._down.size > 0)
    faulted._allowance.left = 0  # as if all had left that may, while the client has not yet got it
    faulted._look_at_allowance()
    assert faulted._looks, "it waits for what has left to arrive"
    put(bench)
    await settled(bench)
    await reader.readexactly(20_000_000)
    await asyncio.sleep(0.05)  # beyond the next look whether all has arrived
    writer.write(b"y")
    assert await reader.readexactly(1) == b"y"
    writer.close()


async def test_reset_after_a_time(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    old = await Connected.to(bench.address[1])
    put(bench, fault(ResetAfterSeconds(0.1)))
    began = time.monotonic()
    reader, writer = await bench.connect()
    for each in (reader, old.reader):
        with pytest.raises(ConnectionResetError):
            await each.readexactly(1)
    assert time.monotonic() - began >= 0.099, "the clock of uvloop has whole milliseconds"
    for other in (writer, old.writer):
        other.close()


async def test_refused_are_new_ones_alone(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    old = await Connected.to(bench.address[1])
    put(bench, fault(Refuse()))
    for _ in range(3):
        with pytest.raises(ConnectionResetError):  # at once, maybe before connect(2) is over
            await asked(bench)
    assert await old.is_alive()
    decisions = await bench.forwarder.data_plane.decisions(Query(outcomes=(Outcome.RESET,)))
    assert [each.reason for each in decisions] == ["fault 1: refuse"] * 3
    put(bench)
    new = await Connected.to(bench.address[1])
    for each in (old, new):
        each.writer.close()


async def test_a_part_of_them_is_concerned(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    put(bench, fault(Latency(0.0001), percent=25.0))
    clients = [await Connected.to(bench.address[1]) for _ in range(200)]
    assert 25 <= len(bench.forwarder.faults.suffering) <= 75
    for client in clients:
        client.writer.close()
    await eventually(lambda: not bench.forwarder.faults.suffering)
    assert bench.forwarder.active == 0


async def test_others_take_the_present_path(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    put(bench, fault(Latency(LATENCY), client="10.9.9.0/24"))
    client = await Connected.to(bench.address[1])
    assert await timed(client) < LATENCY
    assert not bench.forwarder.faults.suffering
    client.writer.close()


async def test_faults_are_over_before_a_successor_asks(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    put(bench, fault(Latency(30.0)))
    reader, writer = await bench.connect()
    writer.write(b"hello")
    await eventually(lambda: bench.forwarder.faults.waiting == 5)
    bench.forwarder.faults.suspend()
    assert (bench.forwarder.faults.waiting, bench.forwarder.faults.current) == (0, ())
    assert await reader.readexactly(5) == b"hello"
    writer.close()


async def test_what_is_suspended_is_in_force_again_unless_it_was_cleared_or_is_over(bench: Bench, serve: Serve) -> None:
    await routed(bench, serve)
    faults = bench.forwarder.faults
    late, cleared, added = (fault(Latency(LATENCY), number) for number in (1, 2, 3))
    client = await Connected.to(bench.address[1])
    brief = fault(Latency(LATENCY), 4, seconds=0.1)
    put(bench, late, cleared, brief)
    faults.suspend()
    assert (faults.current, bench.forwarder.steering.faults) == ((), (late, cleared, brief))
    assert await timed(client) < LATENCY
    put(bench, late, brief, added)
    assert (faults.current, bench.forwarder.steering.faults) == ((added,), (late, brief, added))
    await settled(bench)
    assert await timed(client) >= LATENCY
    faults.suspend()
    await eventually(lambda: time.monotonic() > brief.until)
    faults.resume()
    await settled(bench)
    assert faults.current == (late, added)
    assert await timed(client) >= 2 * LATENCY
    faults.resume()
    assert faults.current == (late, added)
    client.writer.close()


@pytest.mark.parametrize("first", ["capture", "fault"])
async def test_what_suffers_can_be_captured(bench: Bench, serve: Serve, first: str) -> None:
    await routed(bench, serve)
    client = await Connected.to(bench.address[1])
    if first == "fault":
        put(bench, fault(Latency(LATENCY)))
        await settled(bench)
    async with recorded(bench, CaptureRequest()) as told:
        if first == "capture":
            put(bench, fault(Latency(LATENCY)))
            await settled(bench)
        assert await timed(client) >= LATENCY
        await eventually(lambda: told.data(Leg.CLIENT, up=False) == b"x")
        if first == "capture":
            put(bench)
            await settled(bench)
            assert await timed(client) < LATENCY
            await eventually(lambda: told.data(Leg.CLIENT, up=False) == b"xx")
    seconds = await timed(client)
    assert (seconds >= LATENCY) is (first == "fault")
    client.writer.close()
