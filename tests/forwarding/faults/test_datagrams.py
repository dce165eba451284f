"""UDP flows that suffer faults: real sockets on loopback, on both loops."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from socket import SOCK_DGRAM, socket

import pytest

from tests.forwarding.conftest import LOOPBACK, Bench, eventually
from tests.forwarding.faults.test_faults import put
from tests.forwarding.udp.bench import received, received_from
from userproxy.forwarding.faults import datagrams
from userproxy.forwarding.faults.datagrams import MOST_BYTES, MOST_DATAGRAMS, FaultedFlow
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.model.faults import Blackhole, Direction, Drop, Effect, Fault, Latency, Refuse

DNS = ListenerName(ServicePortName("default", "dns", "dns", Protocol.UDP))
LATENCY = 0.1


def fault(effect: Effect, percent: float = 100.0, endpoint: Endpoint | None = None) -> Fault:
    now = time.monotonic()
    return Fault(1, DNS.service_port.service, effect, now, 0.0, now + 60, endpoint=endpoint, percent=percent)


class Clients:
    """A listener with endpoints, and clients of it."""

    def __init__(self, bench: Bench, stack: ExitStack) -> None:
        self._stack = stack
        self.forwarder = bench.forwarder
        self.port = bench.forwarder.open(DNS)
        self.backend = self.backend_socket()
        self.route(self.backend)

    def route(self, *backends: socket) -> None:
        endpoints = tuple(Endpoint(*each.getsockname()) for each in backends)
        self.forwarder.update(Snapshot(DNS, Verdict.SERVE, endpoints))

    def backend_socket(self) -> socket:
        sock = self._stack.enter_context(socket(type=SOCK_DGRAM))
        sock.setblocking(False)
        sock.bind((LOOPBACK, 0))
        return sock

    def client(self) -> socket:
        sock = self.backend_socket()
        sock.connect((LOOPBACK, self.port))
        return sock

    async def ask(self, client: socket, text: bytes = b"question") -> float:
        """Seconds until the answer, which is right."""
        began = time.monotonic()
        client.send(text)
        data, flow = await received_from(self.backend)
        self.backend.sendto(data[::-1], flow)
        assert await received(client) == text[::-1]
        return time.monotonic() - began


@pytest.fixture
async def clients(bench: Bench) -> AsyncIterator[Clients]:
    with ExitStack() as stack:
        yield Clients(bench, stack)


@pytest.mark.parametrize(("direction", "times"), [(Direction.DOWN, 1), (Direction.UP, 1), (Direction.BOTH, 2)])
async def test_latency_is_seen_by_new_and_old_flows(
    bench: Bench, clients: Clients, direction: Direction, times: int
) -> None:
    old = clients.client()
    assert await clients.ask(old) < LATENCY
    put(bench, fault(Latency(LATENCY, direction=direction)))
    for client in (old, clients.client()):
        assert await clients.ask(client) >= times * LATENCY
        assert await clients.ask(client) >= times * LATENCY
    put(bench)
    assert not bench.forwarder.faults.suffering
    for client in (old, clients.client()):
        assert await clients.ask(client) < LATENCY


async def test_answers_that_nobody_asked_for_are_late_as_well(bench: Bench, clients: Clients) -> None:
    put(bench, fault(Latency(LATENCY)))
    client = clients.client()
    client.send(b"subscribe")
    _, flow = await received_from(clients.backend)
    began = time.monotonic()
    for number in range(20):
        clients.backend.sendto(b"%d" % number, flow)
    assert [await received(client) for _ in range(20)] == [b"%d" % number for number in range(20)]
    assert time.monotonic() - began >= LATENCY


@pytest.mark.parametrize("direction", [Direction.UP, Direction.DOWN])
async def test_as_many_are_lost_as_are_asked_for(bench: Bench, clients: Clients, direction: Direction) -> None:
    """Of 400 datagrams a quarter, within five standard deviations."""
    put(bench, fault(Drop(direction), 25.0))
    client = clients.client()
    found: list[tuple[str, int]] = []
    while not found:
        client.send(b"first")
        await _turn()
        found += _all(clients.backend)
    passed = 0
    for number in range(400):
        if direction is Direction.UP:
            client.send(b"x")
        else:
            clients.backend.sendto(b"x", found[0])
        if number % 20 == 19:
            await _turn()
            passed += len(_all(clients.backend if direction is Direction.UP else client))

    def enough() -> bool:
        nonlocal passed
        passed += len(_all(clients.backend if direction is Direction.UP else client))
        return passed >= 257

    await eventually(enough)
    await _turn()
    assert enough()
    assert passed <= 343


async def test_nothing_passes_a_blackhole_and_what_comes_later_does(bench: Bench, clients: Clients) -> None:
    client = clients.client()
    await clients.ask(client)
    put(bench, fault(Blackhole()))
    client.send(b"lost")
    await _turn()
    assert _all(clients.backend) == []
    put(bench)
    await clients.ask(client)


async def test_faults_of_connections_are_none_of_flows(bench: Bench, clients: Clients) -> None:
    put(bench, fault(Refuse()))
    await clients.ask(clients.client())
    assert not bench.forwarder.faults.suffering


async def test_a_flow_that_moves_suffers_what_its_endpoint_does(bench: Bench, clients: Clients) -> None:
    first, second = clients.backend, clients.backend_socket()
    put(bench, fault(Latency(LATENCY), endpoint=Endpoint(*second.getsockname())))
    client = clients.client()
    assert await clients.ask(client) < LATENCY
    clients.route(second)
    clients.backend = second
    assert await clients.ask(client) >= LATENCY
    assert len(bench.forwarder.faults.suffering) == 1
    clients.route(first)
    clients.backend = first
    assert await clients.ask(client) < LATENCY
    assert not bench.forwarder.faults.suffering


async def test_a_flow_that_ends_leaves_nothing(bench: Bench, clients: Clients) -> None:
    put(bench, fault(Latency(30.0)))
    client = clients.client()
    client.send(b"question")
    await eventually(lambda: len(bench.forwarder.faults.suffering) == 1)
    bench.forwarder.close(DNS)
    assert not bench.forwarder.faults.suffering


async def test_who_floods_has_a_bounded_number_kept(bench: Bench, clients: Clients) -> None:
    put(bench, fault(Latency(30.0, direction=Direction.UP)))
    client = clients.client()
    for _ in range(MOST_DATAGRAMS // 50 + 2):
        for _ in range(50):
            client.send(b"x")
        await _turn()
    assert 0 < bench.forwarder.faults.waiting <= MOST_BYTES
    put(bench)
    assert bench.forwarder.faults.waiting == 0
    assert 0 < len(_all(clients.backend)) <= MOST_DATAGRAMS


async def test_what_waits_in_all_flows_is_bounded_as_well(
    bench: Bench, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "MOST_WAITING", 5000)
    put(bench, fault(Latency(30.0, direction=Direction.UP)))
    for _ in range(10):
        clients.client().send(bytes(1000))
        await _turn()
    assert 1000 < bench.forwarder.faults.waiting <= 5000
    bench.forwarder.close(DNS)
    assert bench.forwarder.faults.waiting == 0


def _all(sock: socket) -> list[tuple[str, int]]:
    """The senders of all that has come."""
    found = []
    while True:
        try:
            found.append(sock.recvfrom(100)[1])
        except BlockingIOError:
            return found


async def _turn() -> None:
    """Let the proxy deal with what has come."""
    await asyncio.sleep(0.01)


async def test_a_flow_that_ends_while_connections_are_told_that_a_fault_is_over_leaves_nothing(
    bench: Bench, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("userproxy.forwarding.faults.faults._SLICE_SECONDS", -1.0)
    put(bench, fault(Latency(60.0)))
    await eventually(lambda: bench.forwarder.faults.is_settled)
    clients.client().send(b"question")
    await received_from(clients.backend)
    (faulted,) = bench.forwarder.faults.suffering.values()
    assert isinstance(faulted, FaultedFlow)
    clients.backend.sendto(b"answer", faulted.flow.node)
    await eventually(lambda: bench.forwarder.faults.waiting > 0)
    put(bench)
    faulted.flow.close()
    await eventually(lambda: bench.forwarder.faults.is_settled)
    assert not bench.forwarder.faults.suffering
    assert bench.forwarder.faults.waiting == 0
