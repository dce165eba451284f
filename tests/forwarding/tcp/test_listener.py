"""Listeners as their clients find them: verdicts, families, portals."""

import asyncio
import errno
import itertools
import os
import socket
from collections.abc import Callable
from random import Random

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import LOOPBACK, LOOPBACK_6, NAME, Bench, Serve, echo, eventually, open_bench
from userproxy.addresses import socket_family
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.observation.recorder import Peer, Portal
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.shares import Shares
from userproxy.forwarding.tcp import listener
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.plane import TcpPlane
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, Snapshot, Verdict
from userproxy.routing.balancer import Balancer

SERVE, REJECT, DROP = Verdict.SERVE, Verdict.REJECT, Verdict.DROP


class Route:
    """A listener of the bench with one backend, and a connection that was there before."""

    def __init__(self, bench: Bench, backend: tuple[str, int], name: ListenerName = NAME) -> None:
        self.bench = bench
        self.backend = Endpoint(*backend)
        self.name = name

    def say(self, verdict: Verdict) -> None:
        endpoints = (self.backend,) if verdict is SERVE else ()
        self.bench.forwarder.update(Snapshot(self.name, verdict, endpoints))

    async def found(self, verdict: Verdict) -> None:
        """Fails unless a new client finds `verdict`."""
        match verdict:
            case Verdict.SERVE:
                assert await self.ask() == b"x"
            case Verdict.REJECT:
                with pytest.raises(ConnectionRefusedError):
                    await self.ask()
            case Verdict.DROP:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self.ask()

    async def ask(self) -> bytes:
        reader, writer = await self.bench.connect()
        writer.write(b"x")
        answer = await reader.readexactly(1)
        writer.close()
        return answer


async def test_before_the_first_snapshot_clients_are_refused(bench: Bench) -> None:
    with pytest.raises(ConnectionRefusedError):
        await bench.connect()


@pytest.mark.parametrize("order", list(itertools.permutations(Verdict)))
async def test_verdicts_change_on_one_port_and_harm_no_connection(
    bench: Bench, serve: Serve, order: tuple[Verdict, ...]
) -> None:
    route = Route(bench, await serve(echo))
    route.say(SERVE)
    reader, writer = await bench.connect()
    with capture_logs() as logs:
        for verdict in (*order, *order[::-1], SERVE):
            route.say(verdict)
            await route.found(verdict)
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"
    assert [entry for entry in logs if entry["log_level"] == "error"] == []
    writer.close()
    await bench.eventually_idle()


async def test_many_changes_at_once_leave_the_last_one(bench: Bench, serve: Serve) -> None:
    route = Route(bench, await serve(echo))
    for last in Verdict:
        for verdict in (*Verdict, *Verdict, last):
            route.say(verdict)
        await route.found(last)


async def test_a_client_that_met_silence_is_served_once_there_are_endpoints(bench: Bench, serve: Serve) -> None:
    route = Route(bench, await serve(echo))
    route.say(DROP)
    async with asyncio.TaskGroup() as group:
        client = group.create_task(route.ask(), name="client")
        await asyncio.sleep(0.05)
        assert not client.done()
        route.say(SERVE)
    assert client.result() == b"x"


async def test_a_verdict_that_the_kernel_denies_is_tried_again(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(_sock: ListeningSocket, _verdict: Verdict) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    route = Route(bench, await serve(echo))
    monkeypatch.setattr(listener, "_RETRY_SECONDS", 0.02)
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(ListeningSocket, "set_verdict", deny)
        route.say(SERVE)
        await route.found(REJECT)
        await eventually(lambda: len(logs) > 1)
    listening = bench.forwarder._listeners[NAME]
    assert isinstance(listening, listener.TcpListener)
    await eventually(lambda: listening._accepting)
    await route.found(SERVE)
    assert logs[0]["reason"] == "Cannot allocate memory"


def accepting_fails(patch: pytest.MonkeyPatch, *errors: Exception) -> Callable[[], bool]:
    """accept(2) fails in these ways; afterwards clients are accepted. Returns what tells whether all has happened."""
    accept_client, left = ListeningSocket.accept_client, list(errors)

    def accept(sock: ListeningSocket) -> tuple[socket.SocketType, tuple[str, int]]:
        if left:
            raise left.pop()
        return accept_client(sock)

    patch.setattr(listener, "_RETRY_SECONDS", 0.02)
    patch.setattr(ListeningSocket, "accept_client", accept)
    return lambda: not left


async def accepted_in_the_end(route: Route, has_failed: Callable[[], bool], left: int) -> None:
    """Nobody tells when the cause is over, and no further client need come."""
    with capture_logs():
        async with asyncio.timeout(10):
            assert await route.ask() == b"x"
    await route.bench.eventually_idle()
    assert has_failed()
    assert route.bench.forwarder._budget.free == left


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EMFILE, errno.ENOBUFS, errno.EPERM])
async def test_clients_are_accepted_again_after_accept_has_failed(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    route = Route(bench, await serve(echo))
    route.say(SERVE)
    left = bench.forwarder._budget.free
    has_failed = accepting_fails(monkeypatch, *[OSError(code, os.strerror(code)) for _ in range(2)])
    await accepted_in_the_end(route, has_failed, left)


async def test_nobody_is_accepted_in_vain(bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    route = Route(bench, await serve(echo))
    route.say(SERVE)
    accept_client, accepted, in_vain = ListeningSocket.accept_client, list[object](), list[OSError]()

    def accept(sock: ListeningSocket) -> tuple[socket.SocketType, tuple[str, int]]:
        try:
            client = accept_client(sock)
        except OSError as error:
            in_vain.append(error)
            raise
        accepted.append(client)
        return client

    monkeypatch.setattr(ListeningSocket, "accept_client", accept)
    for at_once in (1, 1, 5, 100, 1):
        before = len(accepted)
        clients = [socket.create_connection(bench.address) for _ in range(at_once)]
        await eventually(lambda: len(accepted) == before + at_once)  # noqa: B023 -- waited for right here
        for client in clients:
            client.close()
    assert in_vain == []


@pytest.mark.bugs
async def test_a_bug_while_accepting_costs_a_pause_and_no_descriptor(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = Route(bench, await serve(echo))
    route.say(SERVE)
    left = bench.forwarder._budget.free
    has_failed = accepting_fails(monkeypatch, *[ValueError("a bug") for _ in range(3)])
    await accepted_in_the_end(route, has_failed, left)
    assert bench.forwarder.handler_failures[Protocol.TCP] == 3


async def test_many_clients_of_one_listener_do_not_keep_those_of_another_waiting() -> None:
    loop = asyncio.get_running_loop()
    poller, budget = Poller(loop), DescriptorBudget(loop, 10_000)
    plane = TcpPlane(loop, poller, budget, Shares(budget, loop.time, 10_000), 60.0)
    order: list[str] = []

    def listen(name: str) -> listener.TcpListener:
        class Noting(Connections):
            def serve(self, client: socket.SocketType, peer: Peer, portal: Portal = None) -> None:
                order.append(name)
                client.close()
                plane.budget.give(2)

        with socket.socket() as free:
            free.bind((LOOPBACK, 0))
            port = free.getsockname()[1]
        sock = ListeningSocket.open(LOOPBACK, port)
        connections = Noting(plane, NAME, Balancer(Random(1)))
        made = listener.TcpListener(plane, sock, connections, portals_only=False)
        made.follow(Snapshot(NAME, SERVE))
        return made

    busy, quiet = listen("busy"), listen("quiet")
    clients = [socket.create_connection((LOOPBACK, each.port)) for each in [busy] * 200 + [quiet]]
    await eventually(lambda: len(order) == 201)
    assert order.index("quiet") < 100
    for client in clients:
        client.close()
    for each in (busy, quiet):
        each.close()
    poller.shut_down()


@pytest.mark.parametrize("verdict", [REJECT, DROP])
async def test_closing_a_listener_that_does_not_serve_frees_its_port(verdict: Verdict) -> None:
    async with open_bench() as bench:
        route = Route(bench, (LOOPBACK, 1))
        route.say(SERVE)
        route.say(verdict)
        left = bench.forwarder._budget.free
        bench.forwarder.close(NAME)
        assert bench.forwarder._budget.free == left + 1
        bench.forwarder.recount_descriptors()
        assert bench.forwarder.open(NAME, bench.address[1]) == bench.address[1]


async def test_clients_and_backends_may_be_of_ipv6(bench: Bench) -> None:
    name = ListenerName(NAME.service_port, IPFamily.IPV6)
    seen: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[0])
        await echo(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, LOOPBACK_6, 0)
    async with server:
        port = bench.forwarder.open(name, bench.address[1])
        assert port == bench.address[1]  # the families have ports of their own
        bench.forwarder.update(Snapshot(name, SERVE, (Endpoint(*server.sockets[0].getsockname()[:2]),)))
        reader, writer = await asyncio.open_connection(LOOPBACK_6, port)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
        await bench.eventually_idle()
    assert seen == [LOOPBACK_6]
    assert bench.forwarder.statistics(name).bytes_up == 1
    assert bench.forwarder.statistics(NAME).accepted == 0


@pytest.mark.parametrize("family", IPFamily)
async def test_a_client_that_dials_the_port_and_no_portal_is_reset(serve: Serve, family: IPFamily) -> None:
    name = ListenerName(NAME.service_port, family)
    async with open_bench(portals_only=True) as bench:
        bench.forwarder.close(NAME)
        port = bench.forwarder.open(name)
        bench.forwarder.update(Snapshot(name, SERVE, (Endpoint(*await serve(echo)),)))
        with pytest.raises(ConnectionResetError):
            await connect_and_read(LOOPBACK if family is IPFamily.IPV4 else LOOPBACK_6, port)
        assert bench.forwarder.statistics(name).accepted == 0


async def connect_and_read(host: str, port: int) -> None:
    with socket.socket(socket_family(host)) as client:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (host, port))
        await asyncio.get_running_loop().sock_recv(client, 1)
