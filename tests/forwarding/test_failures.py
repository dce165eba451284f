"""Bugs while one client is handled end that client, and nobody else notices."""

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import LOOPBACK, NAME, Bench, Serve, echo, eventually, open_bench
from tests.forwarding.udp import bench as udp_bench
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.failures import HandlerFailures
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.tcp import connections, listener, relay
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.sources.node_sockets import NodeSockets
from userproxy.forwarding.udp import listener as listener_of_udp
from userproxy.forwarding.udp import plane
from userproxy.forwarding.udp.datagrams import Outbox
from userproxy.forwarding.udp.listening import clients as clients_of_udp
from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName, Snapshot
from userproxy.routing.balancer import Balancer

pytestmark = pytest.mark.bugs


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("a bug")


def raised_in(function: Callable[[], None]) -> Exception:
    try:
        function()
    except RuntimeError as error:
        return error
    raise AssertionError


def another_bug() -> None:
    raise RuntimeError("another bug")


def test_every_failure_counts_and_a_place_is_logged_once_a_minute_with_its_traceback() -> None:
    now = 1000.0
    failures = HandlerFailures(lambda: now)
    with capture_logs() as logs:
        for _ in range(50):
            failures.note(raised_in(fail))
        failures.note(raised_in(another_bug))
        now += 59
        failures.note(raised_in(fail))
        now += 2
        failures.note(raised_in(fail))
    assert failures.count == 53
    assert [(str(entry["exc_info"]), entry["failures"]) for entry in logs] == [
        ("a bug", 1),
        ("another bug", 51),
        ("a bug", 53),
    ]
    assert {entry["log_level"] for entry in logs} == {"error"}


class Balance:
    """What must be as it was once a client is gone."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self.before = self.now

    @property
    def now(self) -> tuple[int, int, int]:
        """Connections, descriptors left, sockets watched."""
        return self._forwarder.active, self._forwarder._budget.free, len(self._forwarder._poller)


STAGES: dict[str, tuple[object, str]] = {
    "told from a client of the port itself": (listener, "dialled_portal"),
    "made a dial": (connections, "Dial"),
    "given an endpoint": (Balancer, "pick"),
    "dialled": (NodeSockets, "connect"),
    "watched": (Poller, "add_method"),
    "watched beside its endpoint": (Poller, "add_beside"),
    "given up": (Balancer, "forget"),
    "made a relay": (connections, "Relay"),
    "relayed first": (Relay, "start"),
    "relayed": (relay, "_ON_CLIENT"),
}


@pytest.mark.parametrize("stage", STAGES)
async def test_a_client_that_cannot_be_handled_is_reset_and_costs_nobody_else(
    stage: str, serve: Serve, refusing: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name = STAGES[stage]
    async with open_bench(portals_only=owner is listener) as bench:
        backend = await serve(echo)
        bench.route_to(refusing if name == "forget" else backend)
        balance = Balance(bench.forwarder)
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(owner, name, fail)
            for _ in range(3):
                with pytest.raises(ConnectionResetError):
                    await ask(bench)
            await eventually(lambda: balance.now == balance.before)
        assert [entry["log_level"] for entry in logs if entry["log_level"] != "debug"] == ["error"]
        assert bench.forwarder.handler_failures == {Protocol.TCP: 3, Protocol.UDP: 0}
        if owner is not listener:
            bench.route_to(backend)
            assert await ask(bench) == b"x"
            await bench.eventually_idle()
            assert balance.now == balance.before
        async with asyncio.timeout(5):
            assert await bench.forwarder.drain(60) == 0


async def ask(bench: Bench) -> bytes:
    reader, writer = await bench.connect()
    try:
        writer.write(b"x")
        return await reader.readexactly(1)
    finally:
        writer.close()


async def test_a_dial_that_fails_when_it_is_tried_again_costs_no_other(
    bench: Bench, serve: Serve, black_hole: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first dial's time is over: then it fails, in the very turn in which the second one's time is over, too."""
    backend = await serve(echo)
    bench.route_to(black_hole)
    clients = [await bench.connect() for _ in range(2)]
    await eventually(lambda: bench.forwarder.active == 2)
    bench.route_to(black_hole, backend)
    pick, picks = Balancer.pick, iter([fail, fail])
    with monkeypatch.context() as patch, capture_logs():
        patch.setattr(Balancer, "pick", lambda *args: next(picks, pick)(*args))
        for _, writer in clients:
            writer.write(b"x")
        await eventually(lambda: bench.forwarder.handler_failures[Protocol.TCP] == 2)
    for reader, writer in clients:
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
    assert bench.forwarder.active == 0


async def test_other_connections_are_closed_with_their_endpoint_though_one_fails(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = await serve(echo)
    bench.route_to(backend)
    clients = [await bench.connect() for _ in range(4)]
    for reader, writer in clients:
        writer.write(b"x")
        await reader.readexactly(1)
    abort, calls = Relay.abort, iter([fail])
    monkeypatch.setattr(Relay, "abort", lambda relay, *reason: next(calls, abort)(relay, *reason))
    with capture_logs():
        bench.forwarder.update(Snapshot(NAME, endpoints=(), known=(Endpoint(LOOPBACK, 1),)))
    for reader, writer in clients:
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
    await bench.eventually_idle()


UDP_STAGES: dict[str, tuple[object, str]] = {
    "reviewed": (listener_of_udp.UdpListener, "_review"),
    "given a flow": (clients_of_udp, "UdpFlow"),
    "given an endpoint": (Balancer, "pick"),
    "dialled": (plane, "connect_to"),
    "watched": (Poller, "add"),
}


@pytest.mark.parametrize("stage", UDP_STAGES)
async def test_a_datagram_that_cannot_be_handled_is_dropped_and_costs_nobody_else(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name = UDP_STAGES[stage]
    async with udp_bench.open_bench() as bench:
        backend = bench.backend()
        bench.route(backend)
        left = bench.plane.budget.free
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(owner, name, fail)
            for _ in range(3):
                bench.client().send(b"lost")
            await eventually(lambda: bench.plane.poller.failures.count == 3)
        assert [entry["log_level"] for entry in logs] == ["error"]
        assert (bench.plane.active, bench.plane.budget.free) == (0, left)
        client = bench.client()
        client.send(b"x")
        assert await udp_bench.received(backend) == b"x"


async def test_the_other_datagrams_of_a_batch_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    async with udp_bench.open_bench() as bench:
        backend = bench.backend()
        bench.route(backend)
        clients = [bench.client() for _ in range(5)]
        pick, picks = Balancer.pick, iter([None, fail, None])
        monkeypatch.setattr(Balancer, "pick", lambda *args: (next(picks, None) or pick)(*args))
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        with capture_logs():
            arrived = {await udp_bench.received(backend) for _ in range(4)}
        assert arrived == {b"0", b"2", b"3", b"4"}


async def test_a_flow_that_fails_ends_and_its_client_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async with udp_bench.open_bench() as bench:
        backend, client = bench.backend(), bench.client()
        bench.route(backend)
        client.send(b"1")
        _, flow = await udp_bench.received_from(backend)
        with monkeypatch.context() as patch, capture_logs():
            patch.setattr(Outbox, "collect_one", fail)
            backend.sendto(b"an answer", flow)
            await eventually(lambda: bench.plane.active == 0)
        client.send(b"2")
        datagram, again = await udp_bench.received_from(backend)
        backend.sendto(datagram, again)
        assert await udp_bench.received(client) == b"2"


async def test_a_udp_listener_whose_receiving_fails_goes_on_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_of_udp, "_RETRY_SECONDS", 0.02)
    async with udp_bench.open_bench() as bench:
        backend = bench.backend()
        bench.route(backend)
        with monkeypatch.context() as patch, capture_logs():
            patch.setattr(listener_of_udp, "receive_batch", fail)
            bench.client().send(b"x")
            await eventually(lambda: bench.plane.poller.failures.count >= 3)
        assert await udp_bench.received(backend) == b"x"


async def test_a_listener_that_cannot_be_watched_is_not_opened(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object) -> None:
        raise OSError(28, "No space left on device")

    left = bench.forwarder._budget.free
    other = ListenerName(ServicePortName("default", "other", "", Protocol.TCP), IPFamily.IPV4)
    with monkeypatch.context() as patch:
        patch.setattr(Poller, "add", no_more)
        with pytest.raises(PortUnavailableError, match="its listener cannot be watched: No space left"):
            bench.forwarder.open(other)
    assert bench.forwarder._budget.free == left
    assert bench.forwarder.open(other)
