"""Connections end with their endpoints, and leave nothing behind."""

import asyncio
import contextlib
import gc
import random
import socket

import pytest

from tests.forwarding.conftest import (
    LOOPBACK,
    NAME,
    RESET,
    Bench,
    Connected,
    Serve,
    echo,
    eventually,
    open_bench,
    snapshot,
)
from userproxy.forwarding.descriptors import open_descriptors
from userproxy.forwarding.tcp.relay import Relay
from userproxy.model import (
    Endpoint,
    IPFamily,
    ListenerName,
    Protocol,
    ServicePortName,
    Snapshot,
    TrafficClass,
    Verdict,
)

OTHER = ListenerName(ServicePortName("default", "other", "", Protocol.TCP))
EXTERNAL = ListenerName(NAME.service_port, traffic=TrafficClass.EXTERNAL)


async def end_somehow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A backend that ends as its client asks: FIN first, RST first, half-close first, or after the client."""
    match await reader.read(1):
        case b"f":
            writer.close()
        case b"r":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        case b"h":
            writer.write_eof()
            await reader.read()
        case _:
            await reader.read()


async def connect_and_end_somehow(address: tuple[str, int], ways: random.Random) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as client, contextlib.suppress(OSError, TimeoutError):
        client.setblocking(False)
        await loop.sock_connect(client, address)
        await loop.sock_sendall(client, ways.choice([b"f", b"r", b"h", b"c", b"c"]))
        end = ways.choice(["fin", "rst", "half-close and vanish", "half-close and wait", "wait"])
        if end == "rst":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if end.startswith("half-close"):
            client.shutdown(socket.SHUT_WR)
        if end.endswith("wait"):
            async with asyncio.timeout(1):
                await loop.sock_recv(client, 10)


async def test_an_ended_connection_is_freed_without_the_garbage_collector(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            reader, writer = await bench.connect()
            writer.write(b"x")
            await reader.readexactly(1)
            writer.close()
        await bench.eventually_idle()
        assert not [each for each in gc.get_objects() if isinstance(each, Relay)]
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.asyncio(loop_factories=["uvloop"])  # on the one that is used; a loop makes no difference to this
async def test_ten_thousand_connections_ended_in_every_way_leave_nothing_behind(serve: Serve) -> None:
    ways = random.Random(3)
    address = await serve(end_somehow)
    async with open_bench(half_open_timeout=0.2) as bench:
        bench.route_to(address)
        descriptors, tasks = open_descriptors(), len(asyncio.all_tasks())

        async def a_hundred() -> None:
            for _ in range(100):
                await connect_and_end_somehow(bench.address, ways)

        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(a_hundred(), name=f"clients {number}")
        assert bench.forwarder.statistics(NAME).accepted == 10_000
        await bench.eventually_idle()
        pipes = 2 * bench.forwarder._tcp.pipes._made
        await eventually(lambda: open_descriptors() <= descriptors + pipes)
        await eventually(lambda: len(asyncio.all_tasks()) == tasks)
        await eventually(lambda: all(queue.timer is None for queue in bench.forwarder._tcp.dialer.limits))
        assert len(bench.forwarder._tcp.half_open) == 0
        assert len(bench.forwarder._poller) == 1  # the listener


class Backend:
    """An echo server that knows how its connections ended."""

    def __init__(self) -> None:
        self.resets = 0
        self.ends = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await echo(reader, writer)
            self.ends += 1
        except ConnectionResetError:
            self.resets += 1
            raise


async def test_connections_to_endpoints_that_are_not_known_are_reset_on_both_sides(bench: Bench, serve: Serve) -> None:
    gone, stays = Backend(), Backend()
    a, b = Endpoint(*await serve(gone.handle)), Endpoint(*await serve(stays.handle))
    forwarder, port = bench.forwarder, bench.address[1]
    forwarder.update(snapshot(NAME, a, b, known=(a, b)))
    clients = [await Connected.to(port) for _ in range(6)]
    forwarder.update(snapshot(NAME, b, known=(a, b)))  # terminating: no new connections, the old ones go on
    assert all([await client.is_alive() for client in clients])
    forwarder.update(snapshot(NAME, b, known=(b,)))
    assert [await client.is_alive() for client in clients].count(True) == 3
    await eventually(lambda: gone.resets == 3)
    assert (stays.resets, stays.ends, gone.ends) == (0, 0, 0)
    assert forwarder.active == 3
    for client in clients:
        client.writer.close()


async def test_endpoints_may_go_without_their_connections_where_nothing_is_said_of_known(
    bench: Bench, serve: Serve
) -> None:
    a = Endpoint(*await serve(echo))
    bench.forwarder.update(snapshot(NAME, a))
    client = await Connected.to(bench.address[1])
    bench.forwarder.update(Snapshot(NAME, Verdict.REJECT))
    assert await client.is_alive()
    bench.forwarder.update(Snapshot(NAME, Verdict.REJECT, known=()))
    assert not await client.is_alive()


async def test_connections_of_a_closed_listener_end_with_their_endpoint_too(bench: Bench, serve: Serve) -> None:
    a, forwarder = Endpoint(*await serve(echo)), bench.forwarder
    other_port, external_port = forwarder.open(OTHER), forwarder.open(EXTERNAL)
    six = ListenerName(NAME.service_port, IPFamily.IPV6)
    forwarder.open(six)
    for name in (OTHER, EXTERNAL):
        forwarder.update(snapshot(name, a, known=(a,)))
    other, client = await Connected.to(other_port), await Connected.to(external_port)
    forwarder.close(EXTERNAL)
    forwarder.close(OTHER)
    forwarder.update(snapshot(NAME, a, known=(a,)))
    forwarder.update(Snapshot(six, known=()))
    assert await client.is_alive()
    forwarder.update(Snapshot(NAME, Verdict.REJECT, known=()))
    assert not await client.is_alive()
    assert await other.is_alive()
    other.writer.close()
    await bench.eventually_idle()
    assert not forwarder._tcp.without_listener


async def test_a_dial_turns_from_an_endpoint_that_is_not_known_to_the_next(
    bench: Bench, serve: Serve, black_hole: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for queue in bench.forwarder._tcp.dialer.limits:
        monkeypatch.setattr(queue, "seconds", 60.0)
    a, b = Endpoint(*black_hole), Endpoint(*await serve(echo))
    bench.forwarder.update(snapshot(NAME, a, known=(a,)))
    reader, writer = await bench.connect()
    writer.write(b"x")
    await eventually(lambda: bench.forwarder.active == 1)
    bench.forwarder.update(snapshot(NAME, b, known=(b,)))
    assert await reader.readexactly(1) == b"x"
    writer.close()


async def test_a_dial_under_way_is_not_repeated_to_an_endpoint_that_is_gone(
    bench: Bench, serve: Serve, black_hole: tuple[str, int]
) -> None:
    gone = Backend()
    hole, a, b = Endpoint(*black_hole), Endpoint(*await serve(gone.handle)), Endpoint(*await serve(echo))
    bench.forwarder.update(Snapshot(NAME, Verdict.SERVE, (hole,), 60))
    reader, writer = await bench.connect()
    await eventually(lambda: bench.forwarder.active == 1)
    bench.forwarder.update(Snapshot(NAME, Verdict.SERVE, (hole, a), 60))
    bench.forwarder.update(Snapshot(NAME, Verdict.SERVE, (b,), 60))
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.close()
    assert bench.forwarder._listeners[NAME].balancer.pick(LOOPBACK, asyncio.get_running_loop().time()) == b
    assert (gone.ends, gone.resets) == (0, 0)
