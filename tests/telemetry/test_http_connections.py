"""What clients can hold of our HTTP ports, and for how long: real sockets on loopback."""

import asyncio
import os
import resource
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest
from aiohttp import web

from tests.telemetry.waiting import eventually
from userproxy.addresses import SocketAddress
from userproxy.telemetry.http import listening_socket
from userproxy.telemetry.http_connections import ConnectionBudget, HttpPort, TimeLimits

PROBE = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"
QUICK = TimeLimits(head=0.2, answer=0.2, idle=0.2)
SLACK = 16
"""How many connections may be counted beyond a budget for a moment: those just taken."""


async def ok(_request: web.BaseRequest) -> web.Response:
    return web.Response(text="ok")


class Bench:
    def __init__(self, port: HttpPort, budget: ConnectionBudget) -> None:
        self.port = port
        self.budget = budget
        self.clients: list[socket.socket] = []
        self.address = self.listen()

    def listen(self, port: HttpPort | None = None) -> tuple[str, int]:
        listening = listening_socket(SocketAddress("0.0.0.0", 0))
        (port or self.port).listen(listening)
        return "127.0.0.1", listening.getsockname()[1]

    async def connect(self, source: str = "127.0.0.1", address: tuple[str, int] | None = None) -> "Client":
        client = socket.socket()
        self.clients.append(client)
        client.setblocking(False)
        client.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(client, address or self.address)
        return Client(client)

    async def idle(self, count: int, source: str = "127.0.0.1") -> list["Client"]:
        """So many connections that say nothing, all of them accepted by now."""
        made = [await self.connect(source) for _ in range(count)]
        await self.settled()
        return made

    async def settled(self) -> None:
        """Until whoever waited in the kernel's queue has been taken, and whoever is too many has gone."""
        last = await self.connect("127.0.0.99")
        assert await last.ask()
        last.socket.close()
        await eventually(lambda: len(self.budget) <= self.budget.most)


class Client:
    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.socket, data)

    async def receive(self) -> bytes:
        """What comes next; nothing where the connection has ended."""
        try:
            async with asyncio.timeout(5):
                return await self._loop.sock_recv(self.socket, 65536)
        except ConnectionError:
            return b""

    async def ask(self) -> bool:
        """Whether a request is answered."""
        try:
            await self.send(PROBE)
        except ConnectionError:
            return False
        return (await self.receive()).startswith(b"HTTP/1.1 200 OK\r\n")

    async def ended(self) -> bool:
        return await self.receive() == b""


@asynccontextmanager
async def opened(
    most: int = 64, limits: TimeLimits | None = None, answer: object = ok, most_of_one: int | None = None
) -> AsyncIterator[Bench]:
    budget = ConnectionBudget(most)
    port = HttpPort(answer, budget, most_of_one, limits)  # type: ignore[arg-type]
    bench = Bench(port, budget)
    try:
        yield bench
    finally:
        await port.close()
        for client in bench.clients:
            client.close()
        await eventually(lambda: not len(budget))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_seven_hundred_idle_clients_keep_no_probe_out_and_hold_few_descriptors() -> None:
    async with opened(64) as bench:
        before = descriptors()
        for number in range(700):
            await bench.connect()
            if number % 20 == 0:
                assert descriptors() - before - number - 1 <= 64 + SLACK
        assert await (await bench.connect()).ask()
        assert 64 - SLACK <= descriptors() - before - 701 <= 64 + SLACK, "it has not waited for others' time to be over"


async def test_junk_costs_little_memory() -> None:
    junk = b"GET /" + b"x" * 60_000
    async with opened(64) as bench:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(200):
                client = await bench.connect()
                with suppress(ConnectionError):
                    await client.send(junk)
                    await client.receive()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak - before < 3_000_000
        assert await (await bench.connect()).ask()


async def test_a_head_that_is_too_long_is_refused_however_it_comes() -> None:
    async with opened() as bench:
        client = await bench.connect()
        await client.send(b"GET /")
        for _ in range(64):
            await client.send(b"x" * 127)
            await asyncio.sleep(0)
        await client.send(b"x" * 200)
        assert (await client.receive()).startswith(b"HTTP/1.1 431 ")
        assert await client.ended()


async def test_a_head_of_nearly_the_limit_is_answered() -> None:
    async with opened() as bench:
        client = await bench.connect()
        head = PROBE[:-2] + b"X-Long: " + b"x" * 4000 + b"\r\nX-More: " + b"y" * 4000 + b"\r\n\r\n"
        await client.send(head[:5000])
        await client.send(head[5000:])
        assert (await client.receive()).startswith(b"HTTP/1.1 200 ")


async def test_what_begins_like_no_request_is_refused_at_its_first_byte() -> None:
    async with opened() as bench:
        client = await bench.connect()
        await client.send(b"\x16\x03\x01")
        assert (await client.receive()).startswith(b"HTTP/1.1 400 ")
        assert await client.ended()


@pytest.mark.parametrize("first", [b"", b"G", PROBE], ids=["nothing", "one byte", "after a request"])
async def test_a_head_that_comes_byte_by_byte_is_cut_in_time(first: bytes) -> None:
    async with opened(limits=QUICK) as bench:
        client = await bench.connect()
        began = time.monotonic()
        if first == PROBE:
            assert await client.ask()
        elif first:
            await client.send(first)
        await eventually(lambda: len(bench.budget) == 1)
        while len(bench.budget):
            assert time.monotonic() - began < 2
            with suppress(ConnectionError):
                await client.send(b"G" if first else b"")
            await asyncio.sleep(0.02)
        assert time.monotonic() - began > 0.1


async def test_an_idle_connection_ends_in_time() -> None:
    async with opened(limits=TimeLimits(head=60, answer=60, idle=0.1)) as bench:
        client = await bench.connect()
        assert await client.ask()
        assert await client.ended()


async def test_an_answer_that_is_not_made_ends_in_time() -> None:
    async def never(_request: web.BaseRequest) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with opened(limits=TimeLimits(head=60, answer=0.1, idle=60), answer=never) as bench:
        client = await bench.connect()
        await client.send(PROBE)
        assert await client.ended()


async def test_an_answer_that_is_not_taken_ends_in_time() -> None:
    async def much(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x" * 20_000_000)

    async with opened(limits=TimeLimits(head=60, answer=60, idle=0.1), answer=much) as bench:
        client = await bench.connect()
        await client.send(PROBE)
        await eventually(lambda: len(bench.budget) == 1)
        await eventually(lambda: len(bench.budget) == 0)


async def test_the_oldest_idle_connection_goes() -> None:
    async with opened(4) as bench:
        first, second, *others = [await bench.connect() for _ in range(4)]
        for client in (first, second, *others):
            assert await client.ask()
        assert await first.ask()  # now the second is the oldest
        assert await (await bench.connect()).ask()
        assert not await second.ask()
        for client in (first, *others):
            assert await client.ask()


async def test_nobody_drives_out_others_by_opening_many() -> None:
    async with opened(8) as bench:
        kept = await bench.connect("127.0.0.2")
        assert await kept.ask()
        await bench.idle(50, "127.0.0.3")
        assert await kept.ask()


async def test_a_request_under_way_is_not_driven_out_by_idle_ones() -> None:
    asked, gate = asyncio.Event(), asyncio.Event()

    async def gated(request: web.BaseRequest) -> web.Response:
        if request.path == "/slow":
            asked.set()
            await gate.wait()
        return web.Response(text="ok")

    async with opened(4, answer=gated) as bench:
        slow = await bench.connect()
        await slow.send(b"GET /slow HTTP/1.1\r\nHost: node\r\n\r\n")
        await asked.wait()
        await bench.idle(40)
        gate.set()
        assert (await slow.receive()).startswith(b"HTTP/1.1 200 ")


async def test_where_all_are_busy_the_oldest_makes_room() -> None:
    gate, asked = asyncio.Event(), 0

    async def gated(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        if request.path == "/slow":
            await gate.wait()
        return web.Response(text="ok")

    async with opened(3, answer=gated) as bench:
        slow = [await bench.connect() for _ in range(3)]
        for number, client in enumerate(slow):
            await client.send(b"GET /slow HTTP/1.1\r\nHost: node\r\n\r\n")
            await eventually(lambda number=number: asked > number)  # type: ignore[misc]
        assert await (await bench.connect()).ask()
        assert await slow[0].ended()
        gate.set()
        for client in slow[1:]:
            assert (await client.receive()).startswith(b"HTTP/1.1 200 ")


async def test_a_body_is_not_read_and_ends_the_connection_after_the_answer() -> None:
    async with opened() as bench:
        client = await bench.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: node\r\nContent-Length: 60000\r\n\r\n")
        assert (await client.receive()).startswith(b"HTTP/1.1 200 ")
        assert await client.ended()


async def test_a_request_behind_another_is_not_answered() -> None:
    async with opened() as bench:
        client = await bench.connect()
        await client.send(PROBE * 20)
        answer = b""
        while part := await client.receive():
            answer += part
        assert answer.count(b"HTTP/1.1 200 ") == 1


async def half_closed(bench: Bench, request: bytes) -> bytes:
    """All that a client gets who shuts its side down when it has asked."""
    client = await bench.connect()
    await client.send(request)
    client.socket.shutdown(socket.SHUT_WR)
    answer = b""
    while part := await client.receive():
        answer += part
    return answer


async def test_a_client_that_shuts_its_side_down_gets_its_answer_and_the_end() -> None:
    async def slow(_request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.02)
        return web.Response(text="slow")

    for answer, text in ((ok, b"ok"), (slow, b"slow")):
        async with opened(answer=answer) as bench:
            for version in (b"1.0", b"1.1"):
                got = await half_closed(bench, PROBE.replace(b"1.1", version))
                assert got.startswith(b"HTTP/%b 200 OK\r\n" % version)
                assert got.endswith(b"\r\n\r\n" + text)
            assert await half_closed(bench, PROBE[:-4]) == b""
            await eventually(lambda: not len(bench.budget))


async def test_nobody_is_answered_as_fast_as_he_can_ask() -> None:
    async with opened() as bench:
        client = await bench.connect()
        began = time.monotonic()
        for _ in range(4):
            assert await client.ask()
        assert 0.25 < time.monotonic() - began < 2


async def test_a_port_has_a_share_of_what_all_of_them_have() -> None:
    async with opened(8, most_of_one=3) as bench:
        others = [HttpPort(ok, bench.budget, 3) for _ in range(4)]
        try:
            addresses = [bench.address, *(bench.listen(port) for port in others)]
            for address in addresses:
                for _ in range(6):
                    assert await (await bench.connect(address=address)).ask()
                    await eventually(lambda: len(bench.budget) <= 8)
                    per_port = [sum(each.port is port for each in bench.budget._held) for port in (bench.port, *others)]
                    assert max(per_port) <= 3
            assert len(bench.budget) == 8
        finally:
            for port in others:
                await port.close()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """The soft limit of open files lowered to what is open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = [os.dup(0) for _ in range(highest + 1 - descriptors() + 8)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


async def test_without_a_descriptor_an_idle_connection_makes_room() -> None:
    async with opened(16) as bench:
        idle = await bench.idle(4)
        client = socket.socket()
        bench.clients.append(client)
        client.setblocking(False)
        with no_descriptor_left():
            await asyncio.get_running_loop().sock_connect(client, bench.address)
            assert await Client(client).ask()
        assert await idle[0].ended()


async def test_without_a_descriptor_and_without_an_idle_connection_a_probe_waits_for_one() -> None:
    async with opened(16) as bench:
        client = socket.socket()
        bench.clients.append(client)
        client.setblocking(False)
        with no_descriptor_left():
            await asyncio.get_running_loop().sock_connect(client, bench.address)
            await Client(client).send(PROBE)
            await asyncio.sleep(0.05)  # it is refused a descriptor, and must not spin
        assert (await Client(client).receive()).startswith(b"HTTP/1.1 200 ")


async def test_who_was_accepted_right_before_the_end_is_answered() -> None:
    async with opened() as bench:
        (client,) = await bench.idle(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(bench.port.close(), name="close")
            await asyncio.sleep(0)
            assert await client.ask()


async def test_who_says_nothing_holds_up_the_end_for_a_fifth_of_a_second_at_most() -> None:
    async with opened() as bench:
        (client,) = await bench.idle(1)
        await bench.port.close()
        assert await client.ended()
