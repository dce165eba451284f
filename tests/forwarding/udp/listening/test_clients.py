"""What clients of a UDP listener get and when they have a flow, with real sockets on loopback, on both loops."""

import asyncio
from random import Random

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import eventually
from tests.forwarding.udp.bench import Bench, exchange, received, received_from
from userproxy.forwarding.udp.listening.clients import KEPT_BYTES


@pytest.mark.parametrize("size", [0, 1, 64, KEPT_BYTES, KEPT_BYTES + 1, 4096, 4097, 9000, 65_507])
async def test_datagrams_of_every_size_pass_whole(bench: Bench, size: int) -> None:
    backend, client = bench.backend(), bench.client()
    bench.route(backend)
    datagram = Random(size).randbytes(size)
    client.send(datagram)
    data, flow = await received_from(backend)
    assert data == datagram
    backend.sendto(datagram[::-1], flow)
    assert await received(client) == datagram[::-1]
    statistics = bench.listener.statistics
    assert (statistics.datagrams_up, statistics.bytes_up) == (1, size)
    assert (statistics.datagrams_down, statistics.bytes_down) == (1, size)


async def test_order_and_boundaries_are_kept_both_ways(bench: Bench) -> None:
    backend, client = bench.backend(), bench.client()
    bench.route(backend)
    datagrams = [b"%d" % number * (number % 7) for number in range(200)]  # a turn takes 128
    for datagram in datagrams:
        client.send(datagram)
    flow = ("", 0)
    for datagram in datagrams:
        data, flow = await received_from(backend)
        assert data == datagram
    for datagram in datagrams:
        backend.sendto(datagram, flow)
    assert [await received(client) for _ in datagrams] == datagrams


async def test_clients_have_flows_of_their_own_and_get_their_own_answers(bench: Bench) -> None:
    backend = bench.backend()
    clients = [bench.client() for _ in range(50)]
    bench.route(backend)
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    questions = [await received_from(backend) for _ in clients]
    assert len({flow for _, flow in questions}) == len(clients) == bench.listener.active
    for data, flow in reversed(questions):
        backend.sendto(b"re " + data, flow)
    for number, client in enumerate(clients):
        assert await received(client) == b"re %d" % number


async def test_a_client_keeps_its_flow_and_its_endpoint(bench: Bench) -> None:
    backend, other, client = bench.backend(), bench.backend(), bench.client()
    bench.route(backend, other)
    client.send(b"1")
    await eventually(lambda: bench.listener.statistics.datagrams_up == 1)
    for number in range(10):
        client.send(b"%d" % number)
    await eventually(lambda: bench.listener.statistics.datagrams_up == 11)
    assert bench.listener.statistics.accepted == 1


async def test_new_clients_take_turns_among_endpoints(bench: Bench) -> None:
    backends = [bench.backend() for _ in range(3)]
    bench.route(*backends)
    for client in [bench.client() for _ in range(6)]:
        client.send(b"")
    for backend in backends:
        for _ in range(2):
            await received(backend)


async def test_pending_are_the_flows_that_wait_for_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, first, second = bench.backend(), bench.client(), bench.client()
    bench.route(backend)
    await exchange(first, backend)
    assert bench.listener.pending == 0
    second.send(bytes(KEPT_BYTES + 1))
    _, flow = await received_from(backend)
    assert bench.listener.pending == bench.plane.pending == 1
    now = asyncio.get_running_loop().time()
    with monkeypatch.context() as patch:
        patch.setattr(bench.listener, "now", lambda: now + 4)
        assert bench.listener.pending == 0
    backend.sendto(b"answer", flow)
    await received(second)
    assert bench.listener.pending == 0


@pytest.mark.bugs
async def test_a_bug_in_one_flow_costs_that_flow_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, good, bad = bench.backend(), bench.client(), bench.client()
    bench.route(backend)
    flow = await exchange(bad, backend)
    await exchange(good, backend)

    next(iter(bench.listener.flows)).addressee = "no bytes"  # type: ignore[assignment]
    with capture_logs() as logs:
        backend.sendto(b"answer", flow)
        await eventually(lambda: bench.listener.active == 1)
    assert [entry["log_level"] for entry in logs] == ["error"]
    await exchange(good, backend)


async def test_flows_of_a_drained_endpoint_stay_and_nobody_else_comes_there(bench: Bench) -> None:
    drained, other, old = bench.backend(), bench.backend(), bench.client()
    bench.route(drained)
    flow = await exchange(old, drained)
    bench.route(other, draining=(drained,))
    for _ in range(4):
        await exchange(bench.client(), other)
    assert await exchange(old, drained) == flow
    bench.route(other)
    await exchange(old, other)
