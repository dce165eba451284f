"""Who moves much at once lets the others go first."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from itertools import pairwise

import pytest

from tests.forwarding.conftest import LOOPBACK, eventually
from userproxy.forwarding import poller
from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.poller import STREAM, WRITABLE, Poller
from userproxy.forwarding.tcp.direction import BUFFER_BYTES
from userproxy.forwarding.tcp.pipes import PIPE_BYTES, PipePool
from userproxy.forwarding.tcp.relay import Relay, RelayContext
from userproxy.forwarding.tcp.source_ports import SourcePorts

pytestmark = pytest.mark.usefixtures("root")  # large socket buffers

MUCH = 4 * PIPE_BYTES


class Wire:
    """A relay between two connections whose sockets hold all that is sent."""

    def __init__(self, context: RelayContext, stack: ExitStack) -> None:
        self.client, near = _connection(stack)
        far, self.backend = _connection(stack)
        self._context = context
        context.poller.add(far.fileno(), STREAM, lambda _events: None, self)
        self.relay = Relay(context, near, far, None, lambda _relay: None)

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
async def context() -> AsyncIterator[RelayContext]:
    loop = asyncio.get_running_loop()
    opened = Poller(loop)
    pipes = PipePool(DescriptorBudget(loop, 10_000), loop.time)
    half_open = DeadlineQueue[Relay](loop, 60.0, Relay.expire, opened.failed)
    yield RelayContext(opened, pipes, half_open, SourcePorts(loop.time))
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
    upward = bulk.relay._upward
    splice, send = os.splice, upward._send

    def another() -> None:
        nonlocal more
        if more:
            more -= 1
            bulk.client.send(b"x")

    def splice_and_get_more(source: int, sink: int, count: int, flags: int) -> int:
        if sink == upward._sink.fileno():
            another()
        return splice(source, sink, count, flags=flags)

    def send_and_get_more(data: memoryview) -> int:
        another()
        return send(data)

    monkeypatch.setattr(os, "splice", splice_and_get_more)
    upward._send = send_and_get_more  # type: ignore[assignment] # of all its forms one is used
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
