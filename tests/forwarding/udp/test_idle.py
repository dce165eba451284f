"""A flow that has been quiet for long enough ends, and no other."""

import asyncio
from contextlib import ExitStack, closing

import pytest

from tests.forwarding.clocked import ClockedLoop
from tests.forwarding.conftest import eventually
from tests.forwarding.udp.bench import Bench, exchange, open_bench, received
from userproxy.forwarding.udp.idle import STREAM_AFTER
from userproxy.forwarding.udp.plane import UdpOptions


@pytest.mark.parametrize("per_snapshot", [False, True])
async def test_a_quiet_flow_ends(per_snapshot: bool) -> None:
    async with open_bench(UdpOptions(udp_timeout=None if per_snapshot else 0.05)) as bench:
        backend, client = bench.backend(), bench.client()
        bench.route(backend, udp_timeout=0.05 if per_snapshot else None)
        free = bench.plane.budget.free
        flow = await exchange(client, backend)
        await eventually(lambda: bench.listener.active == 0)
        assert bench.plane.budget.free == free
        assert len(bench.plane.poller) == 1
        assert await exchange(client, backend) != flow


async def test_a_shorter_limit_counts_for_flows_that_are_there(bench: Bench) -> None:
    backend, client = bench.backend(), bench.client()
    bench.route(backend)
    await exchange(client, backend)
    bench.route(backend, udp_timeout=0.05)
    await eventually(lambda: bench.listener.active == 0)


@pytest.mark.parametrize("answers", [False, True], ids=["from the client", "from the backend"])
def test_datagrams_in_either_direction_alone_keep_a_flow(answers: bool) -> None:
    """Syslog has no answers, a video hardly any questions."""
    with closing(ClockedLoop()) as loop, ExitStack() as stack:
        bench = Bench(stack, UdpOptions(), 10_000, loop)
        backend, client = bench.backend(), bench.client()
        bench.route(backend)
        client.send(b"1")
        loop.turn()
        _, flow = backend.recvfrom(10)
        for _ in range(20):
            loop.advance(29.0)
            if answers:
                backend.sendto(b"2", flow)
                loop.turn()
                assert client.recv(10) == b"2"
            else:
                client.send(b"2")
                loop.turn()
                assert backend.recvfrom(10) == (b"2", flow)
        loop.advance(29.0)
        assert bench.listener.active == 1
        loop.advance(4.0)
        assert bench.listener.active == 0


async def test_a_client_that_has_its_answer_and_goes_on_gets_a_longer_limit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, asking, answered = bench.backend(), bench.client(), bench.client()
    bench.route(backend)
    await exchange(answered, backend)
    asking.send(b"unanswered")
    await received(backend)
    now = asyncio.get_running_loop().time()
    monkeypatch.setattr(bench.listener, "now", lambda: now + STREAM_AFTER + 1)
    for client in (asking, answered):
        client.send(b"again")
        await received(backend)
    assert sorted((flow.stream, flow.answered) for flow in bench.listener.flows) == [(False, False), (True, True)]
