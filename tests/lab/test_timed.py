"""What counts as under way is what kernels say, not what programs that wait for the CPU do."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import pytest

from tests.lab.timed import TIMESTAMPS, Timed, handshake_seconds

Reply = Callable[[int, int], tuple[int, int, int]]
"""Of a question's number and when it was sent: when it is said to have come and been answered, and what that took."""

SECOND = 10**9


class Server(asyncio.DatagramProtocol):
    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._number = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._number += 1
        times = self._reply(self._number, int(data))
        self._transport.sendto(b"pod %d %d %d" % times, address)


@asynccontextmanager
async def asking(reply: Reply) -> AsyncIterator[tuple[Timed, list[float]]]:
    """A socket to a server, and what is noted."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Server(reply), local_addr=("127.0.0.1", 0))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, TIMESTAMPS, 1)
    sock.connect(transport.get_extra_info("sockname"))
    noted: list[float] = []
    with closing(transport), closing(Timed(loop, sock, noted.append)) as timed:
        yield timed, noted


def now() -> bytes:
    return b"%d" % time.time_ns()


async def test_time_in_the_server_does_not_count() -> None:
    """It says that it had each question when it was sent, and answered an hour later, which is in the future."""
    async with asking(lambda _, sent: (sent, sent + 3600 * SECOND, 0)) as (timed, noted):
        in_server: list[float] = []
        timed._note_server = in_server.append
        for _ in range(3):
            assert await timed.ask(now()) == [b"pod"]
        assert len(noted) == 5, "an answer's way counts when the next one has come"
        assert max(noted) < 1800
        assert sorted(noted)[:2] == pytest.approx([-3600, -3600], abs=30)
        assert in_server == [3600.0] * 3


async def test_a_question_that_comes_late_was_under_way() -> None:
    async with asking(lambda _, sent: (sent + 100 * SECOND, sent + 100 * SECOND, 0)) as (timed, noted):
        await timed.ask(now())
        assert noted == pytest.approx([100], abs=30)


async def test_a_server_that_was_held_up_while_it_answered_was_not_waited_for() -> None:
    """Its first answer seems to have been 100 s under way, but it took so long to send it."""
    async with asking(lambda number, sent: (sent, sent - 100 * SECOND, 100 * SECOND * (number - 1))) as (timed, noted):
        await timed.ask(now())
        await timed.ask(now())
        assert noted == pytest.approx([0, 0, 0], abs=30)


async def test_the_end_of_a_connection_is_told() -> None:
    here, there = socket.socketpair()
    here.setblocking(False)
    with closing(Timed(asyncio.get_running_loop(), here, lambda _: None)) as timed:
        asyncio.get_running_loop().call_soon(there.close)
        with pytest.raises((EOFError, OSError)):
            await timed.ask(b"x")


def test_a_handshake_that_nothing_was_lost_of_took_as_long_as_tcp_says() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server, closing(socket.socket()) as client:
        client.connect(server.getsockname())
        assert 0 < handshake_seconds(client, 1000.0) < 100
