"""When a connection needs more than small messages and its end, and what has been moved by then."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from tests.forwarding.conftest import NAME, Bench, Serve, echo, eventually
from userproxy.forwarding.tcp.relays import ways
from userproxy.forwarding.tcp.relays.ways import Ways

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Ways]:
    """All that are made."""
    made: list[Ways] = []
    begin = Ways.__init__

    def note(new: Ways, *arguments: object) -> None:
        made.append(new)
        begin(new, *arguments)  # type: ignore[arg-type] # of whoever makes it

    monkeypatch.setattr(ways.Ways, "__init__", note)
    return made


async def answer_and_leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a server of HTTP/1.0: the reply and the FIN come together."""
    request = await reader.readexactly(5)
    writer.write(request * 2)
    writer.write_eof()
    await reader.read()
    writer.close()


async def speak_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 at your service")
    await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("handler", "request_", "reply", "ends_first"),
    [
        (echo, b"hello", b"hello", False),
        (echo, b"hello", b"hello", True),
        (answer_and_leave, b"hello", b"hellohello", False),
        (answer_and_leave, b"hello", b"hellohello", True),
        (speak_first, b"", b"220 at your service", True),
        (speak_first, b"", b"220 at your service", False),
        (echo, b"", b"", True),
    ],
)
async def test_a_short_connection_needs_none(
    bench: Bench, serve: Serve, made: list[Ways], handler: Handler, request_: bytes, reply: bytes, *, ends_first: bool
) -> None:
    bench.route_to(await serve(handler))
    for _ in range(5):
        reader, writer = await bench.connect()
        writer.write(request_)
        if ends_first:
            writer.write_eof()
        assert await reader.readexactly(len(reply)) == reply
        if ends_first:
            assert await reader.read() == b""
        writer.close()
        await bench.eventually_idle()
    statistics = bench.forwarder.statistics(NAME)
    assert (statistics.bytes_up, statistics.bytes_down) == (5 * len(request_), 5 * len(reply))
    assert not made


async def test_a_read_that_fills_the_buffer_makes_them_once_and_loses_nothing(
    bench: Bench, serve: Serve, made: list[Ways]
) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"small")
    assert await reader.readexactly(5) == b"small"
    assert not made
    for _ in range(2):
        body = bytes(range(256)) * 4096
        writer.write(body)
        assert await reader.readexactly(len(body)) == body
    writer.write(b"small")
    assert await reader.readexactly(5) == b"small"
    assert len(made) == 1
    writer.close()
    await bench.eventually_idle()
    statistics = bench.forwarder.statistics(NAME)
    assert statistics.bytes_up == statistics.bytes_down == 10 + 2 * (1 << 20)


async def test_urgent_data_makes_them_and_what_follows_is_read(bench: Bench, serve: Serve, made: list[Ways]) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    # asyncio's stand-in for the socket sends no urgent data.
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as client:
        client.send(b"!", socket.MSG_OOB)
        client.send(b"after")
    assert await reader.readexactly(5) == b"after"
    assert len(made) == 1
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await eventually(lambda: not bench.forwarder.active)
