"""How one way of a relay moves what it reads: in turns, through pipes where it is much, and to readers who are slow."""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from itertools import pairwise
from typing import cast

import pytest

from tests.forwarding.conftest import LOOPBACK, Bench, Serve, echo, eventually, open_bench
from userproxy.forwarding import poller
from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.poller import STREAM, WRITABLE, Poller
from userproxy.forwarding.tcp import pipes
from userproxy.forwarding.tcp.direction import BUFFER_BYTES
from userproxy.forwarding.tcp.pipes import MOST_PIPES, PIPE_BYTES, Pipe, PipePool
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.relays.context import RelayContext
from userproxy.forwarding.tcp.source_ports import SourcePorts

MEBIBYTE = 1024 * 1024
MUCH = 4 * PIPE_BYTES


class Wire:
    """A relay between two connections whose sockets hold all that is sent."""

    def __init__(self, context: RelayContext, stack: ExitStack) -> None:
        self.client, near = _connection(stack)
        far, self.backend = _connection(stack)
        self._context = context
        context.poller.add(far.fileno(), STREAM, lambda _events: None, self)
        self.relay = Relay()
        self.relay.begin(context, near, far, None, self)

    def relayed(self, _relay: Relay) -> None:
        pass

    def start(self) -> None:
        self.relay.start(WRITABLE)

    def abort(self) -> None:
        raise AssertionError("a handler failed")


def _connection(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listener, ExitStack() as failed:
        _enlarge(listener)
        listener.bind((LOOPBACK, 0))
        listener.listen()
        client = failed.enter_context(socket.socket())
        _enlarge(client)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        failed.pop_all()
    for sock in (client, server):
        sock.setblocking(False)
        stack.callback(sock.close)
    return client, server


def _enlarge(sock: socket.socket) -> None:
    so_sndbufforce, so_rcvbufforce = 32, 33  # asm-generic/socket.h
    for option in (so_sndbufforce, so_rcvbufforce):
        sock.setsockopt(socket.SOL_SOCKET, option, 4 * MUCH)


@pytest.fixture
async def context(root: None) -> AsyncIterator[RelayContext]:
    loop = asyncio.get_running_loop()
    opened = Poller(loop)
    pipes = PipePool(DescriptorBudget(loop, 10_000), loop.time)
    closing = DeadlineQueue[Relay](loop, 1.0, Relay.stay_half_open, opened.failed)
    half_open = DeadlineQueue[Relay](loop, 60.0, Relay.expire, opened.failed)
    yield RelayContext(opened, pipes, closing, half_open, SourcePorts(loop.time), Recorder(loop.time))
    pipes.close()
    opened.shut_down()


@pytest.fixture
async def wire(context: RelayContext) -> AsyncIterator[Callable[[], Wire]]:
    with ExitStack() as stack:
        yield lambda: Wire(context, stack)


Wires = Callable[[], Wire]


@pytest.mark.parametrize("with_pipes", [True, False])
async def test_nobody_moves_more_than_a_turn_at_once(
    context: RelayContext, wire: Wires, monkeypatch: pytest.MonkeyPatch, *, with_pipes: bool
) -> None:
    monkeypatch.setattr(poller, "_TURNS_SECONDS", 0.0)
    if not with_pipes:
        context.pipes.borrow = lambda: None  # type: ignore[method-assign] # all are lent
    bulk = wire()
    bulk.start()
    assert bulk.client.send(bytes(MUCH)) == MUCH
    moved = [0]

    def look() -> None:
        if bulk.relay.bytes_up > moved[-1]:
            moved.append(bulk.relay.bytes_up)

    await _watch(look, lambda: bulk.relay.bytes_up == MUCH)
    assert len(moved) > 2
    assert max(after - before for before, after in pairwise(moved)) < 2 * PIPE_BYTES


@pytest.mark.parametrize("with_pipes", [True, False])
async def test_nobody_is_read_for_ever_who_writes_little_as_fast_as_it_is_passed_on(
    context: RelayContext, wire: Wires, monkeypatch: pytest.MonkeyPatch, *, with_pipes: bool
) -> None:
    if not with_pipes:
        context.pipes.borrow = lambda: None  # type: ignore[method-assign] # all are lent
    bulk, more = wire(), 1000
    upward = bulk.relay.upward
    splice, sink = os.splice, upward._sink

    def another() -> None:
        nonlocal more
        if more:
            more -= 1
            bulk.client.send(b"x")

    def splice_and_get_more(source: int, target: int, count: int, flags: int) -> int:
        if target == sink.fileno():
            another()
        return splice(source, target, count, flags=flags)

    class Sink:
        fileno, shutdown = sink.fileno, sink.shutdown

        def send(self, data: memoryview) -> int:
            another()
            return sink.send(data)

    monkeypatch.setattr(os, "splice", splice_and_get_more)
    upward._sink = cast("socket.socket", Sink())
    bulk.start()
    bulk.client.send(bytes(BUFFER_BYTES))
    turns = [more]

    def look() -> None:
        if more < turns[-1]:
            turns.append(more)

    await _watch(look, lambda: bulk.relay.bytes_up == BUFFER_BYTES + 1000)
    assert max(before - after for before, after in pairwise(turns)) < 200


async def _watch(look: Callable[[], None], until: Callable[[], bool]) -> None:
    """Call `look` in every turn of the loop."""

    def watched() -> bool:
        look()
        return until()

    async with asyncio.timeout(10):
        while not watched():
            await asyncio.sleep(0)


async def test_a_message_goes_before_the_stream_whose_event_came_first(context: RelayContext, wire: Wires) -> None:
    bulk, small = wire(), wire()
    bulk.start()
    small.start()
    assert bulk.client.send(bytes(MUCH)) == MUCH
    await eventually(lambda: bulk.relay.bytes_up == MUCH)
    before: list[int] = []

    def on_message(_events: int) -> None:
        if small.relay.bytes_up:
            before.append(bulk.relay.bytes_up - MUCH)

    context.poller.add(small.backend.fileno(), STREAM, on_message, small)
    await asyncio.sleep(0)
    bulk.client.send(bytes(2 * BUFFER_BYTES))
    small.client.send(b"hello")
    await eventually(lambda: bool(before))
    assert before[0] == 0
    await eventually(lambda: bulk.relay.bytes_up == MUCH + 2 * BUFFER_BYTES)


async def test_a_stream_that_slackens_is_served_at_once_again(context: RelayContext, wire: Wires) -> None:
    once_bulk, small = wire(), wire()
    once_bulk.start()
    small.start()
    for size in (MUCH, 10, 10):
        before = once_bulk.relay.bytes_up
        assert once_bulk.client.send(bytes(size)) == size
        await eventually(lambda goal=before + size: once_bulk.relay.bytes_up == goal)  # type: ignore[misc]
    before_it: list[int] = []
    context.poller.add(
        small.backend.fileno(), STREAM, lambda _events: before_it.append(once_bulk.relay.bytes_up - MUCH - 20), small
    )
    await eventually(lambda: bool(before_it))
    before_it.clear()
    once_bulk.client.send(b"first")
    small.client.send(b"second")
    await eventually(lambda: bool(before_it))
    assert before_it[0] == len(b"first")


async def test_bulk_is_spliced_and_messages_are_not(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = splices(monkeypatch)
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    for _ in range(3):
        writer.write(bytes(1000))
        await reader.readexactly(1000)
    assert not sizes
    body = bytes(8 * MEBIBYTE)
    writer.write(body)
    assert await asyncio.wait_for(reader.readexactly(len(body)), 10) == body
    assert sum(sizes) > len(body)  # twice what went through a pipe: in and out
    writer.close()


async def test_without_pipes_a_slow_reader_gets_everything_too(serve: Serve) -> None:
    digests = asyncio.Queue[bytes]()

    async def read_slowly(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        digest = hashlib.sha256()
        while data := await reader.read(10_000):
            digest.update(data)
            await asyncio.sleep(0)
        digests.put_nowait(digest.digest())

    address = await serve(read_slowly)
    async with open_bench() as bench:
        lent = [bench.forwarder._tcp.pipes.borrow() for _ in range(MOST_PIPES)]
        bench.route_to(address)
        _, writer = await bench.connect()
        body = os.urandom(40 * MEBIBYTE)
        writer.write(body)
        writer.write_eof()
        assert await asyncio.wait_for(digests.get(), 30) == hashlib.sha256(body).digest()
        writer.close()
        await bench.eventually_idle()
        for pipe in lent:
            assert pipe is not None
            bench.forwarder._tcp.pipes.give_back(pipe)


async def test_stuck_readers_give_up_their_pipes_and_lose_nothing(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "MOST_PIPES", 2)
    monkeypatch.setattr(pipes, "STALL_SECONDS", 0.0)
    body = os.urandom(20 * MEBIBYTE)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(body)
        await writer.drain()

    bench.route_to(await serve(answer))
    pool = bench.forwarder._tcp.pipes
    with contextlib.ExitStack() as stack:
        stuck = [stack.enter_context(socket.create_connection(bench.address)) for _ in range(2)]
        for client in stuck:
            client.shutdown(socket.SHUT_WR)
        await eventually(lambda: len(pool._stuck) == len(stuck))
        spliced = splices(monkeypatch)
        reader, writer = await bench.connect()
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 20) == body
        assert spliced
        assert pool._kept
        writer.close()
        for client in stuck:
            assert await asyncio.to_thread(read_all, client) == body
    await bench.eventually_idle()
    assert pool._kept == 0


async def test_what_was_kept_of_a_pipe_goes_with_its_connection(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "MOST_PIPES", 1)
    monkeypatch.setattr(pipes, "STALL_SECONDS", 0.0)
    bench.route_to(await serve(pour))
    pool = bench.forwarder._tcp.pipes
    clients = [await bench.connect() for _ in range(2)]
    await eventually(lambda: pool._kept > 0)
    for _, writer in clients:
        writer.transport.abort()
    await bench.eventually_idle()
    assert pool._kept == 0


async def test_what_was_kept_of_a_pipe_is_sent_and_forgotten(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "MOST_PIPES", 1)
    monkeypatch.setattr(pipes, "STALL_SECONDS", 0.0)
    bench.route_to(await serve(pour))
    pool = bench.forwarder._tcp.pipes
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(bench.address)) for _ in range(2)]
        await eventually(lambda: pool._kept > 0)
        await eventually(lambda: read_some(clients) and pool._kept == 0)
        assert bench.forwarder.active == 2
    await bench.eventually_idle()


async def test_a_reader_that_goes_on_is_stuck_no_longer(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.route_to(await serve(pour))
    pool = bench.forwarder._tcp.pipes
    freed: list[bool] = []

    def moves(pipe: Pipe) -> None:
        was_stuck = pipe in pool._stuck
        PipePool.moves(pool, pipe)
        freed.append(was_stuck and pipe not in pool._stuck)

    monkeypatch.setattr(pool, "moves", moves)
    with socket.create_connection(bench.address) as client:
        await eventually(lambda: len(pool._stuck) == 1)
        await eventually(lambda: read_some([client]) and any(freed))
        assert bench.forwarder.active == 1
    await bench.eventually_idle()


def read_some(clients: list[socket.socket]) -> bool:
    """Read what there is of each."""
    for client in clients:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while client.recv(MEBIBYTE):
                pass
    return True


async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A backend that has always more to say."""
    while True:
        writer.write(bytes(MEBIBYTE))
        await writer.drain()


def read_all(client: socket.socket) -> bytes:
    client.settimeout(20)
    with client.makefile("rb") as file:
        return file.read()


def splices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all splice(2) from now on."""
    sizes: list[int] = []
    splice = os.splice

    def noted(source: int, sink: int, count: int, *, flags: int) -> int:
        sizes.append(splice(source, sink, count, flags=flags))
        return sizes[-1]

    monkeypatch.setattr(os, "splice", noted)
    return sizes
