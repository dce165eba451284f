"""A flow finds an endpoint that takes its datagrams, and another one when that refuses them."""

import pytest

from tests.forwarding.conftest import eventually
from tests.forwarding.udp.bench import Bench, endpoint, exchange, received, received_from
from userproxy.forwarding.udp.listening.clients import KEPT_BYTES


async def test_a_refused_datagram_goes_to_the_next_endpoint(bench: Bench) -> None:
    alive, client = bench.backend(), bench.client()
    dead = bench.backend()
    bench.route(alive, dead)
    dead.close()
    clients = [client, *(bench.client() for _ in range(3))]
    for number, each in enumerate(clients):
        each.send(b"%d" % number)
    assert sorted([await received(alive) for _ in clients]) == [b"0", b"1", b"2", b"3"]
    statistics = bench.listener.statistics
    assert statistics.moved >= 1
    assert statistics.dial_failures == statistics.moved
    assert statistics.accepted == statistics.active == 4


async def test_a_datagram_that_meets_the_refusal_of_an_earlier_one_arrives_after_it(bench: Bench) -> None:
    first, second, client = bench.backend(), bench.backend(), bench.client()
    bench.route(first, second)
    client.send(b"0")
    await eventually(lambda: bench.listener.statistics.datagrams_up == 1)
    flow = next(iter(bench.listener.flows))
    home, refuge = (first, second) if flow.endpoint == endpoint(first) else (second, first)
    assert await received(home) == b"0"
    home.close()
    client.send(b"1")
    client.send(b"2")
    assert [await received(refuge), await received(refuge)] == [b"1", b"2"]


async def test_after_an_answer_every_endpoint_may_be_tried_again(bench: Bench) -> None:
    first, second, client = bench.backend(), bench.backend(), bench.client()
    bench.route(first, second)
    client.send(b"0")
    await eventually(lambda: bench.listener.statistics.datagrams_up == 1)
    flow = next(iter(bench.listener.flows))
    home, refuge = (first, second) if flow.endpoint == endpoint(first) else (second, first)
    port = endpoint(home).port
    home.close()
    await exchange(client, refuge)
    home = bench.backend(port)
    refuge.close()
    await exchange(client, home)
    assert bench.listener.statistics.moved == 2


async def test_a_large_datagram_is_not_kept_for_another_endpoint(bench: Bench) -> None:
    alive, dead = bench.backend(), bench.backend()
    bench.route(alive, dead)
    dead.close()
    for client in (bench.client(), bench.client()):
        client.send(bytes(KEPT_BYTES + 1))
        await eventually(lambda: bench.listener.statistics.datagrams_up == bench.listener.statistics.accepted)
    await eventually(lambda: bench.listener.statistics.moved == 1)
    assert len(await received(alive)) == KEPT_BYTES + 1
    with pytest.raises(BlockingIOError):
        alive.recv(1)


async def test_a_flow_outlives_refusals_of_its_only_endpoint(bench: Bench) -> None:
    """After an ICMP error uvloop's own readers of connected UDP sockets go deaf; ours must not."""
    backend, client = bench.backend(), bench.client()
    bench.route(backend)
    flow = await exchange(client, backend)
    port = endpoint(backend).port
    for number in range(3):
        backend.close()
        client.send(b"lost")
        await eventually(lambda: bench.listener.statistics.dial_failures == number + 1)  # noqa: B023 -- awaited here
        backend = bench.backend(port)
        assert await exchange(client, backend, b"%d" % number) == flow, "the flow and its socket are the same"
    assert bench.listener.statistics.accepted == 1


async def test_when_every_endpoint_refuses_the_datagram_is_lost_and_the_listener_lives(bench: Bench) -> None:
    dead, client = [bench.backend() for _ in range(6)], bench.client()
    bench.route(*dead)
    for backend in dead:
        backend.close()
    client.send(b"lost")
    await eventually(lambda: bench.listener.statistics.dial_failures == 4)
    assert bench.listener.pending == 0
    backend = bench.backend()
    bench.route(backend)
    await exchange(client, backend)


async def test_a_removed_endpoint_loses_its_flows_at_their_next_datagram(bench: Bench) -> None:
    old, new, client = bench.backend(), bench.backend(), bench.client()
    bench.route(old)
    client.send(b"slow question")
    _, flow = await received_from(old)
    bench.route(new)
    old.sendto(b"late answer", flow)
    assert await received(client) == b"late answer"
    await exchange(client, new)
    assert bench.listener.statistics.moved == 1
    assert bench.listener.statistics.accepted == 1


async def test_an_unknown_endpoint_loses_its_flows_at_once(bench: Bench) -> None:
    old, new = bench.backend(), bench.backend()
    kept, lost = bench.client(), bench.client()
    bench.route(old, new)
    for client in (kept, lost):
        client.send(b"")
    await eventually(lambda: bench.listener.active == 2)
    bench.route(new, known=(endpoint(new),))
    assert [flow.endpoint for flow in bench.listener.flows] == [endpoint(new)]
