"""A forwarder on loopback with real backends, on uvloop and on asyncio's own loop."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import uvloop

from userproxy.demo.waiting import Deadline
from userproxy.forwarding import descriptors
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.failures import HandlerFailures
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName, Snapshot, Verdict

NAME = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))
LOOPBACK = "127.0.0.1"
LOOPBACK_6 = "::1"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler], Awaitable[tuple[str, int]]]
"""The fixture `serve`."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with which close() sends a RST."""


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test of this folder runs on both loops."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Bench:
    """A forwarder with one open listener at `address`."""

    def __init__(self, forwarder: Forwarder, port: int) -> None:
        self.forwarder = forwarder
        self.address = (LOOPBACK, port)

    def route_to(self, *addresses: tuple[str, int], affinity: int | None = None) -> None:
        endpoints = tuple(Endpoint(ip, port) for ip, port in addresses)
        self.forwarder.update(Snapshot(NAME, Verdict.SERVE, endpoints, affinity))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)

    async def eventually_idle(self) -> None:
        await eventually(lambda: self.forwarder.active == 0)


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Let the loop run until `condition` holds; fails after `seconds` (see :class:`Deadline`)."""
    deadline = Deadline(seconds)
    while not condition():
        assert deadline.left, "the condition did not come true in time"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def open_bench(
    *,
    half_open_timeout: float = 60.0,
    descriptor_limit: int = 10_000,
    portals_only: bool = False,
    trusted_proxies: tuple[str, ...] = (),
) -> AsyncIterator[Bench]:
    addresses = {IPFamily.IPV4: LOOPBACK, IPFamily.IPV6: LOOPBACK_6}
    options = ForwardingOptions(
        addresses, PortRange(), portals_only, half_open_timeout, descriptor_limit, trusted_proxies=trusted_proxies
    )
    forwarder = Forwarder(asyncio.get_running_loop(), options, Random(1))
    try:
        yield Bench(forwarder, forwarder.open(NAME))
    finally:
        forwarder.shut_down()


@pytest.fixture(autouse=True)
def _no_bug_is_survived(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The data plane outlives bugs of its own, which would hide them from every test but those marked `bugs`."""
    survived: list[Exception] = []

    def note(failures: HandlerFailures, error: Exception) -> None:
        survived.append(error)
        count(failures, error)

    count = HandlerFailures.note
    monkeypatch.setattr(HandlerFailures, "note", note)
    yield
    if request.node.get_closest_marker("bugs") is None:
        assert survived == []


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty descriptors count as open at first: not what earlier tests have left open.

    Nor do the sockets of clients and backends count later, which are in this process, too.
    """
    monkeypatch.setattr(descriptors, "open_descriptors", lambda: 20)
    monkeypatch.setattr(descriptors, "descriptors_counted_by_kernel", lambda: 20)
    monkeypatch.setattr(DescriptorBudget, "recount", lambda _budget: None)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as opened:
        yield opened


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts backends: an address for each handler."""
    servers: list[asyncio.Server] = []

    async def start(handler: Handler) -> tuple[str, int]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(reader, writer)
            except ConnectionError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(handle, LOOPBACK, 0)
        servers.append(server)
        address: tuple[str, int] = server.sockets[0].getsockname()
        return address

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def refusing() -> Iterator[tuple[str, int]]:
    """An address that answers with RST: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        yield sock.getsockname()


@pytest.fixture
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that never answers: a listener whose queue is full drops further SYNs (tcp(7))."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        sock.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
            fillers.append(filler)
        yield sock.getsockname()
        for filler in fillers:
            filler.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A backend that answers what it is told, until it is told the end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def named(name: bytes) -> Handler:
    """A backend that says its name and hangs up."""

    async def say_name(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        await writer.drain()

    return say_name


class Connected:
    """A client with an established connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, port: int) -> "Connected":
        client = cls(*await asyncio.open_connection(LOOPBACK, port))
        assert await client.is_alive()
        return client

    async def is_alive(self) -> bool:
        """Whether the backend still answers; if not, both ends were reset."""
        try:
            if not self.writer.is_closing():
                self.writer.write(b"x")
            return await self.reader.readexactly(1) == b"x"
        except ConnectionResetError:
            self.writer.close()
            return False


def snapshot(name: ListenerName, *endpoints: Endpoint, known: tuple[Endpoint, ...] | None = None) -> Snapshot:
    return Snapshot(name, Verdict.SERVE, endpoints, known=known)
