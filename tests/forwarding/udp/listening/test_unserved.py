"""Datagrams that come to no endpoint, with real sockets on loopback, on both loops."""

import socket

import pytest

from tests.forwarding.conftest import eventually
from tests.forwarding.udp.bench import Bench, exchange
from userproxy.addresses import host_and_port
from userproxy.forwarding.udp.losses import MOST
from userproxy.model import Verdict
from userproxy.model.reports import Outcome


async def test_without_an_endpoint_datagrams_are_discarded_and_counted(bench: Bench) -> None:
    client, backend = bench.client(), bench.backend()
    bench.route()
    client.send(b"discarded")
    await eventually(lambda: bench.listener.statistics.unserved == 1)
    bench.route(verdict=Verdict.DROP)
    client.send(b"dropped")
    await eventually(lambda: bench.listener.statistics.unserved == 2)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    bench.route(backend)
    await exchange(client, backend)


def decisions(bench: Bench) -> list[tuple[str, Outcome, str, object]]:
    """Client, verdict, reason and endpoint of each decision."""
    return [(host_and_port(*entry[2]), entry[5], entry[6], entry[4]) for entry in bench.listener.decisions]


@pytest.mark.parametrize("verdict", [Verdict.SERVE, Verdict.DROP])
async def test_a_flood_that_nobody_may_have_costs_one_decision_a_client(bench: Bench, verdict: Verdict) -> None:
    bench.route(verdict=verdict)
    clients = [bench.client() for _ in range(2 * MOST)]
    first = clients[0]
    for _ in range(200):
        first.send(b"lost")
    await eventually(lambda: bench.listener.statistics.unserved == 200)
    name = host_and_port(*first.getsockname())
    assert decisions(bench) == [(name, Outcome.DROPPED, "no endpoint may serve it", None)]
    for client in clients:
        client.send(b"lost")
    await eventually(lambda: bench.listener.statistics.unserved == 200 + len(clients))
    assert len(bench.listener.decisions) == MOST


async def test_datagrams_that_one_endpoint_refuses_cost_one_decision(bench: Bench) -> None:
    client, gone = bench.client(), bench.backend()
    bench.route(gone)
    gone.close()
    for number in range(1, 6):
        client.send(b"lost")
        await eventually(lambda: bench.listener.statistics.dial_failures >= number)  # noqa: B023 -- called at once
    ((_, verdict, reason, _),) = decisions(bench)
    assert (verdict, reason) == (Outcome.DROPPED, "no endpoint takes its datagram")
