"""When descriptors run short, whoever has most waits first, and nobody else notices."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import LOOPBACK, NAME, Bench, Handler, Serve, echo, eventually, open_bench
from tests.forwarding.udp.bench import received
from userproxy.forwarding.descriptors import RESERVE, DescriptorBudget, count_descriptors
from userproxy.forwarding.shares import IDLE_SECONDS, Shares
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot

pytestmark = pytest.mark.usefixtures("uncounted")

HOGS, OTHERS, ELSEWHERE = "127.0.0.1", "127.0.0.2", "127.0.0.3"


def service_port(name: str, protocol: Protocol = Protocol.TCP) -> ListenerName:
    return ListenerName(ServicePortName("default", name, "", protocol))


class Clients:
    """Clients of several Services in a process with few descriptors, closed with it."""

    def __init__(self, bench: Bench, stack: ExitStack, backend: tuple[str, int]) -> None:
        self.forwarder = bench.forwarder
        self._stack = stack
        self._backend = Endpoint(*backend)
        self._ports = {"web": bench.address[1]}
        self._route(NAME)

    def _route(self, name: ListenerName) -> None:
        self.forwarder.update(Snapshot(name, endpoints=(self._backend,)))

    def _port(self, service: str) -> int:
        if service not in self._ports:
            name = service_port(service)
            self._ports[service] = self.forwarder.open(name)
            self._route(name)
        return self._ports[service]

    def hoard(self, count: int, service: str = "web", source: str = HOGS) -> list[socket.socket]:
        """Idle clients who want to stay."""
        clients = []
        for _ in range(count):
            client = self._stack.enter_context(socket.socket())
            client.bind((source, 0))
            client.setblocking(False)
            client.connect_ex((LOOPBACK, self._port(service)))
            clients.append(client)
        return clients

    async def ask(self, service: str, source: str = OTHERS, seconds: float = 3.0) -> socket.socket:
        """A client that is answered, and stays."""
        loop = asyncio.get_running_loop()
        (client,) = self.hoard(1, service, source)
        async with asyncio.timeout(seconds):
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(client, 1) == b"x"
        return client

    def served(self, service: str = "web") -> int:
        name = NAME if service == "web" else service_port(service)
        return self.forwarder.statistics(name).active


@asynccontextmanager
async def open_clients(serve: Serve, free: int = 100, handler: Handler = echo) -> AsyncIterator[Clients]:
    backend = await serve(handler)
    with ExitStack() as stack:
        async with open_bench(descriptor_limit=count_descriptors() + RESERVE + free) as bench:
            with capture_logs():
                yield Clients(bench, stack, backend)


async def test_alone_a_service_port_gets_eight_ninths(serve: Serve) -> None:
    async with open_clients(serve, 180) as clients:
        clients.hoard(200)
        await eventually(lambda: clients.served() >= 79)
        await asyncio.sleep(0.1)
        assert 79 <= clients.served() <= 81


@pytest.mark.parametrize("talks", [False, True])
async def test_clients_of_other_service_ports_are_served_at_once_beside_a_hoarder(serve: Serve, *, talks: bool) -> None:
    async with open_clients(serve) as clients, asyncio.TaskGroup() as group:
        hogs = clients.hoard(100)
        await eventually(lambda: clients.served() >= 40)
        talking = group.create_task(keep_talking(hogs), name="talk") if talks else None
        for number in range(12):
            await clients.ask(f"other-{number}", seconds=1.0)
        if talking is not None:
            talking.cancel()


async def keep_talking(clients: list[socket.socket]) -> None:
    while True:
        for client in clients:
            with suppress(OSError):
                client.send(b"y")
        await asyncio.sleep(0.05)


async def test_one_hoarder_after_the_other_leaves_room_for_the_next(serve: Serve) -> None:
    async with open_clients(serve) as clients:
        for number in range(4):
            clients.hoard(60, f"hog-{number}")
            await asyncio.sleep(0.1)
        for number in range(6):
            await clients.ask(f"other-{number}", seconds=1.0)
        assert [clients.served(f"hog-{number}") > 4 for number in range(3)] == [True] * 3


async def test_nobody_is_reset_for_a_client_who_gets_room_by_waiting_for_a_moment(serve: Serve) -> None:
    loop = asyncio.get_running_loop()

    async def come_and_go(clients: Clients) -> None:
        while True:
            (client,) = clients.hoard(1)
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(client, 1) == b"x"
            client.close()

    async with open_clients(serve, 12) as clients, asyncio.TaskGroup() as group:
        floods = [group.create_task(come_and_go(clients), name=f"flood {n}") for n in range(20)]
        await eventually(lambda: clients.forwarder.statistics(NAME).accepted > 100)
        for _ in range(10):
            (await clients.ask("other", seconds=2.0)).close()
        for task in floods:
            task.cancel()
        assert clients.forwarder.evicted[Protocol.TCP] == 0


async def test_who_was_accepted_only_to_be_looked_at_is_served_once_there_is_room(serve: Serve) -> None:
    loop = asyncio.get_running_loop()
    async with open_clients(serve, 10_000) as clients:
        budget = clients.forwarder._budget
        budget._counted = lambda *_: None  # type: ignore[method-assign]
        budget.free = 80
        (listener,) = clients.forwarder._listeners.values()
        assert isinstance(listener, TcpListener)
        hogs = clients.hoard(36)
        await eventually(lambda: clients.served() == 36)
        (late,) = clients.hoard(1)
        await eventually(lambda: listener.holds == 1)
        await loop.sock_sendall(late, b"x")
        for hog in hogs:
            hog.close()
        async with asyncio.timeout(20):
            assert await loop.sock_recv(late, 1) == b"x"


@pytest.mark.parametrize("talks", [False, True])
async def test_another_client_of_the_very_service_port_is_served_beside_a_hoarder(serve: Serve, *, talks: bool) -> None:
    async with open_clients(serve, 400) as clients:
        for hog in clients.hoard(178):
            if talks:
                hog.send(b"y")
        await eventually(lambda: clients.served() >= 176)
        for _ in range(3):
            await clients.ask("web", OTHERS, seconds=1.0)
        await clients.ask("web", ELSEWHERE, seconds=1.0)


async def test_behind_a_hoarders_queue_another_client_waits_for_no_more_than_that_its_idle_connections_go(
    serve: Serve,
) -> None:
    async with open_clients(serve) as clients:
        clients.hoard(100)
        await eventually(lambda: clients.served() >= 40)
        await clients.ask("web", seconds=8.0)


async def late_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read(1)
    await asyncio.sleep(1.5)
    writer.write(data)


async def test_a_client_that_waits_for_its_answer_makes_no_room_for_more_of_its_own_kind(serve: Serve) -> None:
    async with open_clients(serve, 40, late_echo) as clients:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(ask_and_leave(clients), name=f"client {number}")
        assert 3.0 < time.monotonic() - began < 20.0
        assert clients.forwarder.evicted[Protocol.TCP] == 0


async def test_clients_who_take_a_while_to_begin_make_no_room_for_more_of_their_own_kind(serve: Serve) -> None:
    async with open_clients(serve, 40) as clients, asyncio.TaskGroup() as group:
        for client in clients.hoard(40):
            group.create_task(begin_late(client), name=f"client {client.fileno()}")
    assert clients.forwarder.evicted[Protocol.TCP] == 0


async def begin_late(client: socket.socket) -> None:
    """Say nothing for longer than a connection may be idle, as a program does that opens thousands at once."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(1.5 * IDLE_SECONDS)
    await loop.sock_sendall(client, b"x")
    assert await loop.sock_recv(client, 1) == b"x"
    client.close()


async def ask_and_leave(clients: Clients) -> None:
    (await clients.ask("web", HOGS, 20.0)).close()


async def test_nobody_makes_room_while_there_is_some(serve: Serve) -> None:
    async with open_clients(serve) as clients:
        clients.hoard(40)
        await eventually(lambda: clients.served() == 40)
        await clients.ask("other")
        assert clients.served() == 40
        assert clients.forwarder.evicted == {Protocol.TCP: 0, Protocol.UDP: 0}


def udp_socket(stack: ExitStack) -> socket.socket:
    sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    sock.setblocking(False)
    sock.bind((LOOPBACK, 0))
    return sock


async def test_udp_clients_are_served_beside_tcp_hoarders(serve: Serve) -> None:
    async with open_clients(serve) as clients:
        dns = service_port("dns", Protocol.UDP)
        backend = udp_socket(clients._stack)
        port = clients.forwarder.open(dns)
        clients.forwarder.update(Snapshot(dns, endpoints=(Endpoint(*backend.getsockname()),)))
        for number in range(4):
            clients.hoard(60, f"hog-{number}")
            await asyncio.sleep(0.1)
        assert clients.forwarder._budget.free < 4
        for number in range(5):
            udp_socket(clients._stack).sendto(b"%d" % number, (LOOPBACK, port))
            assert await asyncio.wait_for(received(backend), 1) == b"%d" % number


async def test_tcp_clients_are_served_beside_a_flood_of_udp_clients(serve: Serve) -> None:
    async with open_clients(serve) as clients:
        dns = service_port("dns", Protocol.UDP)
        backend = udp_socket(clients._stack)
        port = clients.forwarder.open(dns)
        clients.forwarder.update(Snapshot(dns, endpoints=(Endpoint(*backend.getsockname()),)))
        for _ in range(110):
            udp_socket(clients._stack).sendto(b"y", (LOOPBACK, port))
            await asyncio.sleep(0)
        await eventually(lambda: clients.forwarder.flows > 80)
        for number in range(10):
            await clients.ask(f"other-{number}", seconds=1.0)
        assert 40 < clients.forwarder.flows < 80


class Idle:
    """A connection without sockets."""

    def __init__(self, seconds: float | None, ended: list["Idle"]) -> None:
        self.seconds = seconds
        self._ended = ended

    def quiet(self) -> tuple[float, float] | None:
        return None if self.seconds is None else (self.seconds, IDLE_SECONDS)

    def abort(self, reason: str = "") -> None:
        self._ended.append(self)


async def test_the_quietest_of_the_address_with_most_goes_and_a_dial_never() -> None:
    shares = Shares(DescriptorBudget(asyncio.get_running_loop(), 10_000), time.monotonic, 1000)
    share, ended = shares.of(NAME.service_port), list[Idle]()
    connections = [Idle(seconds, ended) for seconds in (None, 3.0, 7.0, None, 5.0)]
    for connection in connections:
        share.add(HOGS, connection)
    share.add(OTHERS, Idle(99.0, ended))
    with capture_logs() as logs:
        assert share.favours(OTHERS)
        assert not share.favours(HOGS)
        assert shares.prefers(share, OTHERS)
    assert [connection.seconds for connection in ended] == [7.0]
    assert [(entry["its_connections"], entry["most_of_them_from"]) for entry in logs] == [(6, HOGS)]


async def test_the_share_that_has_grown_beyond_the_largest_is_the_largest() -> None:
    shares = Shares(DescriptorBudget(asyncio.get_running_loop(), 10_000), time.monotonic, 1000)
    small, large = (shares.of(service_port(name).service_port) for name in ("small", "large"))
    large.add(HOGS, Idle(1.0, []))
    small.add(HOGS, Idle(1.0, []))
    for _ in range(8):
        large.add(HOGS, Idle(1.0, []))
        assert shares._largest_share() is large


async def test_a_share_that_is_given_up_leaves_nothing_behind() -> None:
    shares = Shares(DescriptorBudget(asyncio.get_running_loop(), 10_000), time.monotonic, 1000)
    for number in range(100):
        share, connection = shares.of(service_port(f"s{number}").service_port), Idle(1.0, [])
        share.add(HOGS, connection)
        share.remove(HOGS, connection)
        assert (share.count, share.addresses, share.top) == (0, {}, "")
    assert not shares._active
    assert len(shares._known) <= 2
