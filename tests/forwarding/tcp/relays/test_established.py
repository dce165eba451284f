"""What is told of an established connection while it goes on, whoever moves its bytes."""

import asyncio

import pytest

from tests.forwarding.conftest import NAME, Bench, Serve, echo, eventually
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.relay import Relay


def only_relay(bench: Bench) -> Relay:
    listener = bench.forwarder._listeners[NAME]
    assert isinstance(listener, TcpListener)
    (relay,) = listener.connections.members.values()
    assert isinstance(relay, Relay)
    return relay


@pytest.mark.parametrize("has_ways", [False, True])
async def test_the_mark_changes_with_every_byte_and_is_none_while_more_may_change(
    bench: Bench, serve: Serve, *, has_ways: bool
) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    await eventually(lambda: isinstance(_member(bench), Relay))
    relay = only_relay(bench)
    if has_ways:
        assert relay.ways.upward.is_plain
    before = relay.mark
    assert before == (0, 0, 0, 0)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    assert relay.mark == (5, 5, 0, 0)
    assert relay.moved == (relay.bytes_up, relay.bytes_down) == (5, 5)
    assert (relay.half_closed, relay.pipe_ends) == (False, ())
    assert relay.state().up.count == relay.state().down.count == 5
    writer.close()
    await bench.eventually_idle()
    assert relay.moved == (5, 5)
    assert relay.closed


@pytest.mark.parametrize("has_ways", [False, True])
async def test_a_half_closed_one_says_so_and_what_it_is_as_a_value(
    bench: Bench, serve: Serve, *, has_ways: bool
) -> None:
    may_answer = asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read()
        await may_answer.wait()
        writer.write(request)

    bench.route_to(await serve(answer_late))
    reader, writer = await bench.connect()
    writer.write(b"request")
    writer.write_eof()
    await eventually(lambda: isinstance(_member(bench), Relay))
    relay = only_relay(bench)
    await eventually(lambda: relay.half_closed)
    if has_ways:
        assert relay.ways.upward.ended
    state = relay.state()
    assert (state.up.count, state.up.ended, state.down.count, state.down.ended) == (7, True, 0, False)
    assert state.up.is_plain
    assert relay.mark is None
    may_answer.set()
    assert await reader.read() == b"request"
    writer.close()
    await bench.eventually_idle()
    assert relay.moved == (7, 7)


def _member(bench: Bench) -> object:
    listener = bench.forwarder._listeners[NAME]
    assert isinstance(listener, TcpListener)
    return next(iter(listener.connections.members.values()), None)
