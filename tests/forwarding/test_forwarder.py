"""Opening, closing and draining; and that nothing is left behind."""

import asyncio
import contextlib
import gc
import random
import resource
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import LOOPBACK, NAME, Bench, Handler, echo, eventually, open_bench
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.descriptors import open_descriptors
from userproxy.forwarding.ports import PortRange
from userproxy.forwarding.relay import Relay
from userproxy.forwarding.sockets import ListeningSocket
from userproxy.model import Endpoint, Protocol, ServicePortName, Snapshot

RESET = struct.pack("ii", 1, 0)
Serve = Callable[[Handler], Awaitable[tuple[str, int]]]
OTHER = ServicePortName("default", "other", "", Protocol.TCP)


async def test_a_preferred_port_is_taken_if_it_is_free(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        assert bench.forwarder.open(OTHER, port) != port
        bench.forwarder.close(OTHER)
    assert bench.forwarder.open(OTHER, port) == port


async def test_a_range_without_a_free_port_says_so() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        async with open_bench() as bench:
            bench.forwarder._options = bench.forwarder._options.__class__(
                LOOPBACK, PortRange(port, port), False, 60.0, 10_000
            )
            with pytest.raises(PortUnavailableError, match=rf"no port of {port}-{port} is free on 127\.0\.0\.1"):
                bench.forwarder.open(OTHER)


async def test_closing_refuses_new_clients_and_keeps_the_old(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"1")
    assert await reader.readexactly(1) == b"1"
    bench.forwarder.close(NAME)
    await eventually_refused(bench)
    writer.write(b"2")
    assert await reader.readexactly(1) == b"2"
    writer.close()
    await bench.eventually_idle()


async def eventually_refused(bench: Bench) -> None:
    for _ in range(100):
        try:
            _, writer = await bench.connect()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # it came while the listener was closing
        writer.close()
    pytest.fail("the listener goes on accepting")


async def test_draining_waits_for_connections(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"1")
    await reader.readexactly(1)
    async with asyncio.TaskGroup() as group:
        drained = group.create_task(bench.forwarder.drain(20), name="drain")
        await asyncio.sleep(0)
        writer.write(b"2")
        assert await reader.readexactly(1) == b"2"
        assert not drained.done()
        writer.close()
    assert drained.result() == 0


async def test_draining_resets_what_outlasts_it(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"1")
    await reader.readexactly(1)
    assert await bench.forwarder.drain(0.05) == 1
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_clients_in_the_queue_are_served_before_the_listener_closes(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    clients = [socket.create_connection(bench.address) for _ in range(20)]
    bench.forwarder.close(NAME)  # the loop had no chance to accept any of them
    for client in clients:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(client, b"x")
        assert await asyncio.get_running_loop().sock_recv(client, 1) == b"x"
        client.close()
    await bench.eventually_idle()


async def test_out_of_descriptors_everybody_is_served_in_the_end(serve: Serve) -> None:
    address = await serve(echo)
    with capture_logs() as logs:
        await serve_two_hundred_with_few_descriptors(address)
    assert [entry["event"][:18] for entry in logs] == ["Out of descriptors"]


async def serve_two_hundred_with_few_descriptors(address: tuple[str, int]) -> None:
    async with open_bench(descriptor_limit=open_descriptors() + 64 + 20) as bench:
        bench.route_to(address)

        async def ask(n: int) -> None:
            reader, writer = await bench.connect()
            writer.write(b"%d" % n)
            writer.write_eof()
            assert await reader.read() == b"%d" % n
            writer.close()

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for n in range(200):
                group.create_task(ask(n), name=f"client {n}")
        await bench.eventually_idle()


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
        pipes = 2 * bench.forwarder._pipes._made
        await eventually(lambda: open_descriptors() <= descriptors + pipes)
        await eventually(lambda: len(asyncio.all_tasks()) == tasks)
        await eventually(lambda: all(queue._timer is None for queue in bench.forwarder._dialer.limits))
        assert len(bench.forwarder._half_open) == 0
        assert len(bench.forwarder._poller) == 1  # the listener


async def test_in_a_shortage_every_service_port_gets_its_share(serve: Serve) -> None:
    backend, loop = await serve(echo), asyncio.get_running_loop()
    async with open_bench(descriptor_limit=open_descriptors() + 64 + 12) as bench:
        flooded, port = bench.address, bench.forwarder.open(OTHER)
        bench.route_to(backend)
        bench.forwarder.update(Snapshot(OTHER, (Endpoint(*backend),), None))

        async def flood() -> None:
            while True:
                with socket.socket() as client:
                    client.setblocking(False)
                    await loop.sock_connect(client, flooded)
                    await loop.sock_sendall(client, b"x")
                    await loop.sock_recv(client, 1)

        async with asyncio.TaskGroup() as group:
            floods = [group.create_task(flood(), name=f"flood {n}") for n in range(20)]
            await eventually(lambda: bench.forwarder.statistics(NAME).accepted > 100)
            for _ in range(5):
                reader, writer = await asyncio.open_connection(LOOPBACK, port)
                writer.write(b"y")
                assert await asyncio.wait_for(reader.read(1), 2) == b"y"
                writer.close()
            for task in floods:
                task.cancel()


async def test_recounting_while_connections_are_being_closed_loses_no_descriptor(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    writers = [(await bench.connect())[1] for _ in range(20)]
    await eventually(lambda: bench.forwarder.active == 20)
    bench.forwarder.recount_descriptors()
    left = bench.forwarder._budget._free
    bench.forwarder.reset_connections()
    bench.forwarder.recount_descriptors()
    assert bench.forwarder._budget._free == left + 40
    for writer in writers:
        writer.close()


async def test_listeners_leave_half_of_the_reserve_to_the_rest() -> None:
    async with open_bench(descriptor_limit=open_descriptors() + 64 + 1) as bench:
        names = [ServicePortName("default", f"s{n}", "", Protocol.TCP) for n in range(32)]
        for name in names[:31]:
            bench.forwarder.open(name)
        with pytest.raises(PortUnavailableError, match="no descriptor is left"):
            bench.forwarder.open(names[31])


def test_a_kernel_without_descriptors_makes_a_port_unavailable() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(PortUnavailableError, match="Too many open files"):
            ListeningSocket(LOOPBACK, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
