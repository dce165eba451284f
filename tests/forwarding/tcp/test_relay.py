"""What a relay owes its two ends: every byte, the FIN, the RST, and no memory."""

import asyncio
import hashlib
import os
import random
import select
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress

import pytest

from tests.forwarding.conftest import NAME, Bench, Serve, echo, eventually, open_bench
from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.poller import WRITABLE, Poller
from userproxy.forwarding.tcp.direction import A_MESSAGE, BUFFER_BYTES
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.pipes import PipePool
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.relays import established
from userproxy.forwarding.tcp.relays.context import RelayContext
from userproxy.forwarding.tcp.sockets import HasFileno, unacknowledged
from userproxy.forwarding.tcp.source_ports import SourcePorts

MEBIBYTE = 1024 * 1024


async def all_of(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), 20)


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.close()


async def test_a_request_and_its_reply(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    for n in range(20):
        writer.write(b"ping %d" % n)
        assert await reader.readexactly(len(b"ping %d" % n)) == b"ping %d" % n
    writer.close()
    await bench.eventually_idle()


async def test_a_backend_that_speaks_first(bench: Bench, serve: Serve) -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await writer.drain()

    bench.route_to(await serve(greet))
    for _ in range(50):
        reader, writer = await bench.connect()
        assert await all_of(reader) == b"220 hello\r\n"
        writer.close()
    await bench.eventually_idle()


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 131_072, 3 * MEBIBYTE, 20 * MEBIBYTE])
async def test_a_client_that_half_closes_gets_the_whole_reply(bench: Bench, serve: Serve, size: int) -> None:
    body = os.urandom(size)

    async def reply_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"request"
        writer.write(body)
        await writer.drain()

    bench.route_to(await serve(reply_after_the_end))
    reader, writer = await bench.connect()
    writer.write(b"request")
    writer.write_eof()
    reply = await all_of(reader)
    assert hashlib.sha256(reply).digest() == hashlib.sha256(body).digest()
    writer.close()
    await bench.eventually_idle()


async def test_a_backend_that_half_closes_gets_the_whole_request(bench: Bench, serve: Serve) -> None:
    body = os.urandom(20 * MEBIBYTE)
    digests = asyncio.Queue[bytes]()

    async def read_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        digests.put_nowait(hashlib.sha256(await reader.read()).digest())

    bench.route_to(await serve(read_after_the_end))
    reader, writer = await bench.connect()
    assert await all_of(reader) == b""
    writer.write(body)
    writer.write_eof()
    assert await asyncio.wait_for(digests.get(), 20) == hashlib.sha256(body).digest()
    writer.close()
    await bench.eventually_idle()


async def test_both_directions_at_once_in_pieces_of_every_size(bench: Bench, serve: Serve) -> None:
    pieces = random.Random(7)
    body = os.urandom(8 * MEBIBYTE)
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()

    async def send() -> None:
        position = 0
        while position < len(body):
            size = pieces.choice([1, 100, 1448, 65_536, 200_000, 1_500_000])
            writer.write(body[position : position + size])
            await writer.drain()
            position += size
        writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(send(), name="send")
        received = group.create_task(reader.read(), name="receive")
    assert hashlib.sha256(received.result()).digest() == hashlib.sha256(body).digest()
    writer.close()
    await bench.eventually_idle()


async def test_a_reset_client_resets_the_backend(bench: Bench, serve: Serve) -> None:
    seen = asyncio.Queue[str]()

    async def watch(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(100):
                seen.put_nowait("data")
            seen.put_nowait("FIN")
        except ConnectionResetError:
            seen.put_nowait("RST")

    bench.route_to(await serve(watch))
    _, writer = await bench.connect()
    writer.write(b"x")
    assert await asyncio.wait_for(seen.get(), 5) == "data"
    reset(writer)
    assert await asyncio.wait_for(seen.get(), 1) == "RST"
    await bench.eventually_idle()


@pytest.mark.parametrize("client_has_half_closed", [False, True])
async def test_a_reset_backend_resets_the_client(bench: Bench, serve: Serve, *, client_has_half_closed: bool) -> None:
    async def reset_soon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (reader.read() if client_has_half_closed else reader.readexactly(1))
        reset(writer)

    bench.route_to(await serve(reset_soon))
    reader, writer = await bench.connect()
    writer.write(b"x")
    if client_has_half_closed:
        writer.write_eof()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 1)
    writer.close()
    await bench.eventually_idle()


async def test_what_a_backend_said_before_its_reset_arrives(bench: Bench, serve: Serve) -> None:
    async def answer_and_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"413 too large")
        await writer.drain()
        reset(writer)

    bench.route_to(await serve(answer_and_reset))
    reader, writer = await bench.connect()
    writer.write(b"x")
    assert await asyncio.wait_for(reader.readexactly(13), 5) == b"413 too large"
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 1)
    writer.close()


async def test_a_reset_after_the_end_of_a_backend_costs_a_slow_client_nothing(bench: Bench, serve: Serve) -> None:
    """So the kernel of a backend answers a keep-alive a minute after it has closed."""
    body, gone = os.urandom(3 * MEBIBYTE), asyncio.Event()

    async def reply_and_vanish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(body)
        writer.write_eof()
        await writer.drain()
        sock = writer.get_extra_info("socket")
        await eventually(lambda: unacknowledged(sock) == 0)
        reset(writer)
        gone.set()

    bench.route_to(await serve(reply_and_vanish))
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        async with asyncio.timeout(20):
            await loop.sock_connect(client, bench.address)
            await loop.sock_sendall(client, b"?")
            await gone.wait()
            found = bytearray()
            while data := await loop.sock_recv(client, 1 << 16):
                found += data
    assert found == body
    await bench.eventually_idle()


async def test_what_a_backend_said_before_its_reset_arrives_while_the_client_goes_on_sending(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        bench.route_to(server.getsockname())
        reader, writer = await bench.connect()
        server.setblocking(False)
        backend, _ = await asyncio.get_running_loop().sock_accept(server)
        await eventually(lambda: has_relay(bench))
        # The relay learns of all this at once, and of the client's part first: its send(2) fails.
        writer.write(b"more of a large upload")
        backend.send(b"413 too large")
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        backend.close()
        assert await asyncio.wait_for(reader.readexactly(13), 5) == b"413 too large"
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()


def has_relay(bench: Bench) -> bool:
    """Whether the connection stands, to its backend, too."""
    listener = bench.forwarder._listeners[NAME]
    assert isinstance(listener, TcpListener)
    return any(isinstance(each, Relay) for each in listener.connections.members.values())


async def test_a_stopped_reader_stops_the_sender_and_then_gets_everything(bench: Bench, serve: Serve) -> None:
    resume = asyncio.Event()
    digests = asyncio.Queue[bytes]()

    async def read_late(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await resume.wait()
        digest = hashlib.sha256()
        while data := await reader.read(65536):
            digest.update(data)
        digests.put_nowait(digest.digest())

    bench.route_to(await serve(read_late))
    _, writer = await bench.connect()
    body = os.urandom(128 * MEBIBYTE)
    writer.write(body)
    writer.write_eof()
    sent = writer.transport
    waiting = [-1]

    def stalled() -> bool:
        waiting.append(sent.get_write_buffer_size())
        return len(waiting) > 50 and len(set(waiting[-50:])) == 1

    await eventually(stalled, 20)
    assert sent.get_write_buffer_size() > 64 * MEBIBYTE  # the rest waits at the sender, not with us
    resume.set()
    assert await asyncio.wait_for(digests.get(), 20) == hashlib.sha256(body).digest()
    writer.close()
    await bench.eventually_idle()


async def test_a_reset_is_seen_while_the_other_side_does_not_read(bench: Bench, serve: Serve) -> None:
    ended = asyncio.Event()

    async def never_read(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        reader.feed_data(b"")
        await ended.wait()

    bench.route_to(await serve(never_read))
    _, writer = await bench.connect()
    writer.write(bytes(64 * MEBIBYTE))
    await eventually(lambda: bench.forwarder.active == 1)
    for _ in range(100):
        await asyncio.sleep(0)
    writer.transport.abort()  # closes with unread data or not: the kernel resets what is unsent
    reset_seen = bench.eventually_idle()
    ended.set()
    await reset_seen


async def test_a_half_open_connection_ends_when_it_stays_silent(serve: Serve) -> None:
    never = asyncio.Event()

    async def keep_silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await never.wait()

    async with open_bench(half_open_timeout=0.2) as bench:
        bench.route_to(await serve(keep_silent))
        reader, writer = await bench.connect()
        writer.write_eof()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await bench.eventually_idle()


async def test_a_half_open_connection_that_moves_bytes_goes_on(serve: Serve) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        for _ in range(10):
            writer.write(b".")
            await asyncio.sleep(0.1)

    async with open_bench(half_open_timeout=0.5) as bench:
        bench.route_to(await serve(drip))
        reader, writer = await bench.connect()
        writer.write_eof()
        assert await all_of(reader) == b"." * 10
        writer.close()
        await bench.eventually_idle()


async def test_bytes_are_counted(bench: Bench, serve: Serve) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(bytes(MEBIBYTE))
        await writer.drain()

    bench.route_to(await serve(answer))
    reader, writer = await bench.connect()
    writer.write(b"12345")
    writer.write_eof()
    await all_of(reader)
    writer.close()
    await bench.eventually_idle()
    statistics = bench.forwarder.statistics(NAME)
    assert (statistics.accepted, statistics.active) == (1, 0)
    assert (statistics.bytes_up, statistics.bytes_down) == (5, MEBIBYTE)


@pytest.mark.parametrize("size", [3, 8 * MEBIBYTE])
async def test_urgent_data_holds_nothing_up(bench: Bench, serve: Serve, size: int) -> None:
    """The urgent byte itself is lost, as any reader without SO_OOBINLINE loses it; what follows it is not."""
    received = asyncio.Queue[int]()

    async def count(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        total = 0
        while total < 2 * size:
            total += len(await reader.read(65536))
        received.put_nowait(total)

    bench.route_to(await serve(count))
    with socket.create_connection(bench.address) as client:

        def send() -> None:
            client.sendall(bytes(size))
            client.send(b"!", socket.MSG_OOB)
            client.sendall(bytes(size))

        async with asyncio.timeout(10):
            await asyncio.to_thread(send)
            assert await received.get() == 2 * size


async def test_a_half_open_connection_to_a_slow_reader_goes_on(serve: Serve) -> None:
    """All of it is read from the backend long before the client has it."""
    body = os.urandom(6 * MEBIBYTE)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(body)
        await writer.drain()

    async with open_bench(half_open_timeout=0.15) as bench:
        bench.route_to(await serve(answer))
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
            client.connect(bench.address)
            client.shutdown(socket.SHUT_WR)
            client.setblocking(False)
            received = 0
            while data := await asyncio.get_running_loop().sock_recv(client, 64 * 1024):
                received += len(data)
                await asyncio.sleep(0.02 if received < 3 * MEBIBYTE else 0)
        assert received == len(body)


@pytest.mark.parametrize(("seconds", "times"), [(60.0, 0), (0.01, 2)])
async def test_what_has_been_delivered_is_asked_of_the_kernel_only_where_a_connection_stays_half_open(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, seconds: float, times: int
) -> None:
    asked: list[int] = []

    def count(sock: HasFileno) -> int:
        asked.append(sock.fileno())
        return unacknowledged(sock)

    async def answer_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        await eventually(lambda: len(asked) >= times)
        writer.write(b"end")

    monkeypatch.setattr(established, "unacknowledged", count)
    async with open_bench() as bench:
        bench.forwarder._tcp.relays.closing.seconds = seconds
        bench.route_to(await serve(answer_twice))
        reader, writer = await bench.connect()
        writer.write(b"request")
        writer.write_eof()
        assert await all_of(reader) == b"requestend"
        writer.close()
        await bench.eventually_idle()
    assert len(asked) == times


class Unwatched:
    """A relay whose handlers are called by the test, in place of the poller."""

    def __init__(self, context: RelayContext, stack: ExitStack) -> None:
        self.client, near = (stack.enter_context(each) for each in socket.socketpair())
        far, self.backend = (stack.enter_context(each) for each in socket.socketpair())
        for each in (self.client, near, far, self.backend):
            each.setblocking(False)
        self.near, self.far = near, far
        self.relay = Relay()
        self.relay.begin(context, near, far, None, self)
        self.handlers = self.relay.on_client, self.relay.on_backend
        self.ends = self.client, self.backend

    def relayed(self, _relay: Relay) -> None:
        pass


@pytest.fixture
async def unwatched() -> AsyncIterator[Unwatched]:
    loop = asyncio.get_running_loop()
    poller = Poller(loop)
    pipes = PipePool(DescriptorBudget(loop, 10_000), loop.time)
    closing = DeadlineQueue[Relay](loop, 1.0, Relay.stay_half_open, poller.failed)
    half_open = DeadlineQueue[Relay](loop, 60.0, Relay.expire, poller.failed)
    context = RelayContext(poller, pipes, closing, half_open, SourcePorts(loop.time), Recorder(loop.time))
    with ExitStack() as stack:
        yield Unwatched(context, stack)
    closing.cancel()
    pipes.close()
    poller.shut_down()


@pytest.mark.parametrize("side", [0, 1])
async def test_an_end_that_comes_after_the_event_of_a_message_is_passed_on(unwatched: Unwatched, side: int) -> None:
    relay = unwatched.relay
    unwatched.ends[side].send(b"last words")
    unwatched.ends[side].shutdown(socket.SHUT_WR)
    unwatched.handlers[side](A_MESSAGE)
    unwatched.handlers[side](A_MESSAGE)
    other = unwatched.ends[1 - side]
    assert other.recv(100) == b"last words"
    assert other.recv(100) == b""
    assert (relay.ended_up, relay.ended_down) == (side == 0, side == 1)
    assert relay.moved == ((10, 0), (0, 10))[side]
    unwatched.handlers[side](A_MESSAGE | select.EPOLLRDHUP)
    assert relay.half_closed
    assert not relay.closed


@pytest.mark.parametrize("side", [0, 1])
async def test_an_event_without_anything_to_read_changes_nothing(unwatched: Unwatched, side: int) -> None:
    unwatched.handlers[side](A_MESSAGE)
    unwatched.handlers[side](WRITABLE)
    assert unwatched.relay.mark == (0, 0, 0, 0)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("ends", [False, True])
async def test_a_message_that_does_not_fit_waits(unwatched: Unwatched, side: int, *, ends: bool) -> None:
    sink = (unwatched.far, unwatched.near)[side]
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += sink.send(bytes(4096))
    unwatched.ends[side].send(b"it waits")
    unwatched.handlers[side](A_MESSAGE | (select.EPOLLRDHUP if ends else 0))
    assert unwatched.relay.mark is None
    assert unwatched.relay.moved == ((8, 0), (0, 8))[side]
    other, received = unwatched.ends[1 - side], b""
    while len(received) < filled:
        received += other.recv(1 << 20)
    unwatched.relay.ways.on_events((unwatched.relay.downward, unwatched.relay.upward)[side], WRITABLE)
    assert other.recv(100) == b"it waits"
    assert not unwatched.relay.closed


@pytest.mark.parametrize("side", [0, 1])
async def test_a_buffer_that_is_filled_is_passed_on_and_read_after(unwatched: Unwatched, side: int) -> None:
    body = os.urandom(BUFFER_BYTES)
    unwatched.ends[side].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BUFFER_BYTES)
    (unwatched.far, unwatched.near)[side].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BUFFER_BYTES)
    assert unwatched.ends[side].send(body) == len(body)
    unwatched.handlers[side](A_MESSAGE)
    received = b""
    with suppress(BlockingIOError):
        while True:
            received += unwatched.ends[1 - side].recv(1 << 20)
    assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()
    assert sum(unwatched.relay.moved) == len(body)
