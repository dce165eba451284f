"""A TCP connection that suffers faults: what waits is handed on in order, however either of them ends."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from tests.forwarding.conftest import NAME, Bench, Serve, eventually, snapshot
from tests.forwarding.faults.test_faults import fault, put, settled
from userproxy.forwarding.faults.stream import FaultedRelay
from userproxy.model import Endpoint
from userproxy.model.faults import Bandwidth, Direction, Effect, Latency, ResetAfterBytes, ResetAfterSeconds
from userproxy.model.reports import Outcome

LONG = 3600.0
SECONDS = 10.0
TEXT = bytes(range(256)) * 100
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Ends:
    """A client's end of a connection, the endpoint's end of it, and what it suffers."""

    def __init__(self, bench: Bench, client: Stream, endpoint: Stream) -> None:
        self.bench = bench
        self.client_reads, self.client = client
        self.endpoint_reads, self.endpoint = endpoint

    @property
    def relay(self) -> FaultedRelay:
        (found,) = self.bench.forwarder.faults.suffering.values()
        assert isinstance(found, FaultedRelay)
        return found

    async def suffer(self, effect: Effect) -> FaultedRelay:
        put(self.bench, fault(effect))
        await settled(self.bench)
        return self.relay

    async def recover(self) -> None:
        put(self.bench)
        await settled(self.bench)

    async def waits(self, size: int) -> None:
        await eventually(lambda: self.bench.forwarder.faults.waiting == size)


@pytest.fixture
async def ends(bench: Bench, serve: Serve) -> AsyncIterator[Ends]:
    accepted: asyncio.Queue[Stream] = asyncio.Queue()
    over = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait((reader, writer))
        await over.wait()

    bench.forwarder.update(snapshot(NAME, Endpoint(*await serve(accept))))
    client = await bench.connect()
    made = Ends(bench, client, await accepted.get())
    yield made
    over.set()
    made.client.close()
    await eventually(lambda: not bench.forwarder.faults.suffering)
    assert bench.forwarder.faults.waiting == 0


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def exactly(reader: asyncio.StreamReader, size: int) -> bytes:
    async with asyncio.timeout(SECONDS):
        return await reader.readexactly(size)


async def rest_of(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """All that is heard, and how it ends."""
    heard = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            while data := await reader.read(1 << 16):
                heard += data
    except ConnectionResetError:
        return bytes(heard), "reset"
    return bytes(heard), "end"


async def test_both_ways_have_what_waited_in_them_once_it_is_lifted(ends: Ends) -> None:
    await ends.suffer(Latency(LONG, direction=Direction.BOTH))
    ends.client.write(TEXT)
    ends.endpoint.write(TEXT[::-1])
    await ends.waits(2 * len(TEXT))
    await ends.recover()
    ends.client.write(b" more")
    ends.endpoint.write(b" more")
    assert await exactly(ends.endpoint_reads, len(TEXT) + 5) == TEXT + b" more"
    assert await exactly(ends.client_reads, len(TEXT) + 5) == TEXT[::-1] + b" more"
    assert ends.bench.forwarder.active == 1


async def test_a_latency_of_one_way_is_not_one_of_the_other(ends: Ends) -> None:
    await ends.suffer(Latency(LONG, direction=Direction.DOWN))
    ends.client.write(TEXT)
    assert await exactly(ends.endpoint_reads, len(TEXT)) == TEXT
    ends.endpoint.write(TEXT)
    await ends.waits(len(TEXT))
    await ends.recover()
    assert await exactly(ends.client_reads, len(TEXT)) == TEXT


async def test_an_end_is_heard_after_what_was_said_before_it(ends: Ends) -> None:
    await ends.suffer(Latency(0.05, direction=Direction.BOTH))
    ends.client.write(TEXT)
    ends.client.write_eof()
    assert await rest_of(ends.endpoint_reads) == (TEXT, "end")
    ends.endpoint.write(TEXT[::-1])
    ends.endpoint.write_eof()
    assert await rest_of(ends.client_reads) == (TEXT[::-1], "end")


async def test_a_reset_is_heard_after_what_was_said_before_it(ends: Ends) -> None:
    await ends.suffer(Latency(0.1, direction=Direction.DOWN))
    ends.endpoint.write(TEXT)
    await ends.waits(len(TEXT))
    reset(ends.endpoint)
    assert await rest_of(ends.client_reads) == (TEXT, "reset")


async def test_a_reset_that_is_still_to_be_heard_is_heard_when_the_fault_is_lifted(ends: Ends) -> None:
    relay = await ends.suffer(Latency(LONG, direction=Direction.DOWN))
    ends.endpoint.write(TEXT)
    await ends.waits(len(TEXT))
    reset(ends.endpoint)
    await eventually(lambda: relay._down.failure is not None)
    assert ends.bench.forwarder.active == 1, "not yet: its client has not heard of it"
    await ends.recover()
    heard, end = await rest_of(ends.client_reads)
    assert end == "reset"
    assert TEXT.startswith(heard)
    assert ends.bench.forwarder.active == 0


async def test_who_leaves_leaves_nothing_that_waits(ends: Ends) -> None:
    relay = await ends.suffer(Latency(LONG, direction=Direction.BOTH))
    ends.client.write(TEXT)
    ends.endpoint.write(TEXT)
    await ends.waits(2 * len(TEXT))
    relay.member.abort()
    await eventually(lambda: not ends.bench.forwarder.faults.suffering)
    assert (relay._up.size, relay._down.size) == (0, 0)
    assert relay._up._timer is relay._down._timer is None, "nothing wakes up for it in an hour"
    relay.lift()
    assert ends.bench.forwarder.active == 0


async def test_a_reset_that_was_to_come_does_not_once_it_is_lifted(ends: Ends) -> None:
    relay = await ends.suffer(ResetAfterSeconds(LONG))
    timer = relay._reset
    assert timer is not None
    await ends.recover()
    assert timer.cancelled()
    ends.client.write(TEXT)
    assert await exactly(ends.endpoint_reads, len(TEXT)) == TEXT


@pytest.mark.parametrize("most", [1, 1000, len(TEXT)])
async def test_so_many_bytes_pass_of_both_ways_together_and_not_one_more(ends: Ends, most: int) -> None:
    await ends.suffer(ResetAfterBytes(most))
    up = most // 2
    ends.client.write(TEXT[:up])
    assert await exactly(ends.endpoint_reads, up) == TEXT[:up]
    ends.endpoint.write(TEXT + TEXT)
    assert await rest_of(ends.client_reads) == (TEXT[: most - up], "reset")
    (decision,) = await ends.bench.forwarder.data_plane.decisions()
    assert decision.verdict is Outcome.RESET


async def test_who_reads_slowly_gets_all_of_it_at_a_rate(ends: Ends) -> None:
    """The lane is full, then the sink is: bytes go on as soon as there is room again."""
    relay = await ends.suffer(Bandwidth(20_000_000))
    data = TEXT * 80
    ends.endpoint.write(data)
    ends.endpoint.write_eof()
    await eventually(lambda: relay._down.size > 0)
    assert await rest_of(ends.client_reads) == (data, "end")
