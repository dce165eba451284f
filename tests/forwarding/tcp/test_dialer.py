"""Finding a backend that answers."""

import asyncio
import errno
import os
import socket
import time
from collections import Counter
from contextlib import closing
from random import Random

import pytest
from structlog.testing import capture_logs

from tests.forwarding.clocked import ClockedLoop
from tests.forwarding.conftest import LOOPBACK, NAME, Bench, Serve, eventually, named, open_bench
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.listener_addresses import ListenerAddresses
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.tcp.dialer import Dial, Dialer
from userproxy.forwarding.tcp.sockets import start_dial
from userproxy.forwarding.tcp.source_ports import SourcePorts
from userproxy.forwarding.tcp.sources import node_sockets
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.model.reports import DialFailure
from userproxy.routing.affinity import AffinityTable
from userproxy.routing.balancer import Balancer

Address = tuple[str, int]


async def ask(bench: Bench) -> bytes:
    reader, writer = await bench.connect()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_connections_are_spread_evenly(bench: Bench, serve: Serve) -> None:
    bench.route_to(*[await serve(named(name)) for name in (b"a", b"b", b"c")])
    counts = Counter([await ask(bench) for _ in range(30)])
    assert counts == {b"a": 10, b"b": 10, b"c": 10}


async def test_with_affinity_a_client_stays(bench: Bench, serve: Serve) -> None:
    bench.route_to(*[await serve(named(name)) for name in (b"a", b"b", b"c")], affinity=60)
    assert len({await ask(bench) for _ in range(10)}) == 1


async def test_a_refusing_endpoint_costs_nobody_a_connection(bench: Bench, serve: Serve, refusing: Address) -> None:
    bench.route_to(refusing, await serve(named(b"live")))
    assert {await ask(bench) for _ in range(20)} == {b"live"}
    assert bench.forwarder.statistics(NAME).dial_failures <= 2, "it is a suspect, and passed over"


async def test_a_silent_endpoint_costs_a_quarter_of_a_second(bench: Bench, serve: Serve, black_hole: Address) -> None:
    bench.route_to(black_hole, await serve(named(b"live")))
    times = []
    for _ in range(4):
        start = time.monotonic()
        assert await ask(bench) == b"live"
        times.append(time.monotonic() - start)
    assert max(times) >= 0.24


async def test_affinity_moves_away_from_a_dead_endpoint(bench: Bench, serve: Serve, refusing: Address) -> None:
    bench.route_to(refusing, await serve(named(b"live")), affinity=60)
    await ask(bench)
    failures = bench.forwarder.statistics(NAME).dial_failures
    assert {await ask(bench) for _ in range(5)} == {b"live"}
    assert bench.forwarder.statistics(NAME).dial_failures == failures


@pytest.mark.parametrize("refusing_count", [0, 1])
async def test_a_client_that_cannot_be_served_is_reset(bench: Bench, refusing: Address, refusing_count: int) -> None:
    bench.route_to(*[refusing] * refusing_count)
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            await ask(bench)
    await bench.eventually_idle()
    statistics = bench.forwarder.statistics(NAME)
    assert (statistics.unserved, statistics.active) == (3, 0)
    assert statistics.dial_failures == 4 * 3 * refusing_count


async def test_new_endpoints_serve_the_next_connection(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(named(b"old")))
    assert await ask(bench) == b"old"
    bench.route_to(await serve(named(b"new")))
    assert await ask(bench) == b"new"


async def test_shutting_down_gives_up_dials(black_hole: Address) -> None:
    async with open_bench() as bench:
        bench.route_to(black_hole)
        reader, writer = await bench.connect()
        await eventually(lambda: bench.forwarder.active == 1)
        bench.forwarder.reset_connections()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        await bench.eventually_idle()


async def test_addresses_without_a_route_are_failures_like_any_other(bench: Bench, serve: Serve) -> None:
    bench.route_to((LOOPBACK, 0), await serve(named(b"live")))
    assert {await ask(bench) for _ in range(4)} == {b"live"}


async def test_a_listener_never_dials_itself(bench: Bench, serve: Serve) -> None:
    bench.route_to(bench.address)
    with pytest.raises(ConnectionResetError):
        await ask(bench)
    await bench.eventually_idle()
    statistics = bench.forwarder.statistics(NAME)
    assert (statistics.accepted, statistics.unserved, statistics.dial_failures) == (1, 1, 4)
    bench.route_to(bench.address, await serve(named(b"live")))
    assert {await ask(bench) for _ in range(4)} == {b"live"}
    assert statistics.accepted == 5


async def test_two_listeners_do_not_dial_each_other(bench: Bench) -> None:
    other = ListenerName(ServicePortName("default", "other", "", Protocol.TCP))
    port = bench.forwarder.open(other)
    bench.forwarder.update(Snapshot(other, Verdict.SERVE, (Endpoint(*bench.address),), None))
    bench.route_to((LOOPBACK, port))
    with pytest.raises(ConnectionResetError):
        await ask(bench)
    await bench.eventually_idle()
    assert bench.forwarder.statistics(other).accepted == 0


async def test_the_port_of_a_closed_listener_may_be_dialled(bench: Bench) -> None:
    """What listens there is somebody else by now."""
    other = ListenerName(ServicePortName("default", "other", "", Protocol.TCP))
    port = bench.forwarder.open(other)
    bench.forwarder.close(other)
    with socket.socket() as successor:
        await eventually(lambda: _listens(successor, port))
        bench.route_to((LOOPBACK, port))
        _, writer = await bench.connect()
        successor.setblocking(False)
        client, _ = await asyncio.get_running_loop().sock_accept(successor)
        client.close()
        writer.close()


def _listens(sock: socket.socket, port: int) -> bool:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((LOOPBACK, port))
    except OSError:
        return False
    sock.listen()
    return True


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
async def test_a_client_whose_backend_gets_no_socket_in_a_shortage_waits_for_one(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    failures = iter([code, code])

    def dial(endpoint: Endpoint) -> tuple[socket.SocketType, int]:
        if (failure := next(failures, None)) is not None:
            raise OSError(failure, os.strerror(failure))
        return start_dial(endpoint)

    bench.route_to(await serve(named(b"live")))
    monkeypatch.setattr(node_sockets, "start_dial", dial)
    with capture_logs():
        assert await ask(bench) == b"live"
    assert next(failures, None) is None
    await bench.eventually_idle()
    statistics = bench.forwarder.statistics(NAME)
    assert (statistics.dial_failures, statistics.unserved) == (0, 0), "that is no fault of the endpoint's"


class Clocked:
    """Dials on a loop whose time the test sets, to addresses that the balancer knows."""

    def __init__(self, *addresses: Address) -> None:
        self.loop = ClockedLoop()
        self.poller = Poller(self.loop)
        self.dialer = Dialer(
            self.loop,
            self.poller,
            DescriptorBudget(self.loop, 10_000),
            ListenerAddresses(),
            SourcePorts(self.loop.time),
        )
        self.affinity = AffinityTable()
        self.balancer = Balancer(Random(1), lambda _: self.affinity)
        self.endpoints = tuple(Endpoint(*address) for address in addresses)
        self.balancer.update(Snapshot(NAME, Verdict.SERVE, self.endpoints, 60))
        self.failed: list[Dial] = []
        self.reached: list[socket.SocketType] = []
        self.client, self._far = socket.socketpair()

    def dial(self) -> Dial:
        dial = Dial()
        dial.begin(self.dialer, self, NAME, self.client, "192.0.2.1")
        dial.start()
        return dial

    def connected(self, _dial: Dial, backend: socket.SocketType, _events: int) -> None:
        self.reached.append(backend)

    def unserved(self, dial: Dial) -> None:
        self.failed.append(dial)

    def sticks(self) -> bool:
        """Whether the client has an endpoint of its own."""
        return self.affinity.lookup("192.0.2.1", self.loop.time(), frozenset(self.endpoints)) is not None

    def close(self) -> None:
        self.dialer.shut_down()
        self.poller.shut_down()
        self.client.close()
        self._far.close()
        self.loop.close()


def test_each_try_has_its_own_time_limit(black_hole: Address) -> None:
    with closing(Clocked(black_hole)) as clocked:
        dial = clocked.dial()
        for number, seconds in enumerate((0.25, 0.5, 1.0, 2.0)):
            clocked.loop.advance(seconds - 0.01)
            assert dial.failures == number
            clocked.loop.advance(0.01)
            assert dial.failures == number + 1
        assert clocked.failed == [dial]


def test_an_endpoint_has_answered_in_time_though_the_time_is_over_when_that_is_seen(refusing: Address) -> None:
    """The process had no CPU meanwhile, or has the dial from another one that paused."""
    with closing(socket.create_server((LOOPBACK, 0))) as server, closing(Clocked(server.getsockname())) as clocked:
        dial = clocked.dial()
        clocked.dialer.limits[0].deadlines[dial] -= 1
        clocked.dialer.limits[0]._expire()
        assert (dial.failures, len(clocked.reached), clocked.failed) == (0, 1, [])
        clocked.loop.advance(4.0)
        assert (dial.failures, len(clocked.reached), clocked.failed) == (0, 1, []), "it is told once"
        clocked.poller.close_at_once(clocked.reached[0])
    with closing(Clocked(refusing)) as clocked:
        dial = clocked.dial()
        if not dial.failures:
            clocked.dialer.limits[0].deadlines[dial] -= 1
            clocked.dialer.limits[0]._expire()
        clocked.loop.advance(4.0)
        assert {each[2] for each in dial.failed} == {DialFailure.REFUSED}


def test_a_client_that_nobody_serves_sticks_to_nobody(black_hole: Address) -> None:
    with closing(Clocked(black_hole)) as clocked:
        clocked.dial()
        assert clocked.sticks()
        clocked.loop.advance(4.0)
        assert clocked.failed
        assert not clocked.sticks()


async def test_a_socket_that_may_not_be_made_costs_one_client_and_not_the_listener(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_endpoint: Endpoint, _local_port: int = 0, **_: bool) -> tuple[socket.SocketType, int]:
        raise PermissionError(errno.EACCES, "Permission denied")

    bench.route_to(await serve(named(b"live")))
    with monkeypatch.context() as patch:
        patch.setattr(node_sockets, "start_dial", refuse)
        with pytest.raises(ConnectionResetError):
            await ask(bench)
    assert await ask(bench) == b"live"
    await bench.eventually_idle()
