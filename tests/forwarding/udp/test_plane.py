"""What listeners share: flows make room for each other, and no listener is an endpoint of another."""

import asyncio
import errno
import gc
import socket
import tracemalloc
from random import Random

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import LOOPBACK, eventually
from tests.forwarding.own_descriptors import OwnDescriptors
from tests.forwarding.udp.bench import Bench, endpoint, exchange, open_bench, received
from userproxy.forwarding.udp.plane import UdpOptions, flow_limits
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.model import Endpoint, Snapshot, Verdict
from userproxy.model.reports import Outcome
from userproxy.routing.balancer import Balancer


async def test_the_oldest_flow_makes_room_and_one_line_is_logged() -> None:
    async with open_bench(UdpOptions(flow_limit=100, flow_limit_per_listener=3)) as bench:
        backend = bench.backend()
        bench.route(backend)
        clients = [bench.client() for _ in range(6)]
        with capture_logs() as logs:
            flows = [await exchange(client, backend) for client in clients]
        assert bench.listener.active == 3
        assert bench.listener.statistics.evicted == 3
        assert [entry["log_level"] for entry in logs] == ["warning"]
        assert [await exchange(client, backend) for client in clients[3:]] == flows[3:]


async def test_a_burst_of_new_clients_at_the_limit_is_served_whole() -> None:
    async with open_bench(UdpOptions(flow_limit=100, flow_limit_per_listener=100)) as bench:
        backend = bench.backend()
        bench.route(backend)
        for number in range(100):
            await exchange(bench.client(), backend, b"%d" % number)
        for client in [bench.client() for _ in range(80)]:
            client.send(b"burst")
        for _ in range(80):
            assert await received(backend) == b"burst"
        statistics = bench.listener.statistics
        assert (statistics.evicted, statistics.unserved, bench.listener.active) == (80, 0, 100)


@pytest.mark.slow
async def test_a_flood_of_new_clients_costs_other_listeners_nothing() -> None:
    async with open_bench(UdpOptions(flow_limit=40, flow_limit_per_listener=40)) as bench:
        backend = bench.backend()
        quiet, late = bench.listen("quiet"), bench.listen("late")
        for listener in (bench.listener, quiet, late):
            bench.route(backend, listener=listener)
        patient = [bench.client(quiet) for _ in range(5)]
        flows = [await exchange(client, backend) for client in patient]
        for number in range(200):
            await exchange(bench.client(), backend, b"%d" % number)
        await exchange(bench.client(late), backend)
        assert (quiet.active, late.active, bench.listener.active) == (5, 1, 34)
        assert (quiet.statistics.evicted, late.statistics.evicted) == (0, 0)
        assert [await exchange(client, backend) for client in patient] == flows


async def test_without_descriptors_flows_make_room_for_each_other() -> None:
    async with open_bench() as bench:
        backend = bench.backend()
        bench.route(backend)
        bench.plane.budget.free = 2
        for number in range(5):
            await exchange(bench.client(), backend, b"%d" % number)
        assert bench.listener.active == 2
        assert bench.listener.statistics.evicted == 3


async def test_without_descriptors_and_flows_the_client_is_not_served(bench: Bench) -> None:
    backend, client = bench.backend(), bench.client()
    bench.route(backend)
    bench.plane.budget.free = 0
    client.send(b"lost")
    await eventually(lambda: bench.listener.statistics.unserved == 1)
    assert [entry[5:7] for entry in bench.listener.decisions] == [
        (Outcome.DROPPED, "there is no room for another flow"),
    ]
    bench.plane.budget.free = 1
    await exchange(client, backend)


async def test_a_kernel_without_sockets_costs_datagrams_and_one_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, client = bench.backend(), bench.client()
    bench.route(backend)
    free = bench.plane.budget.free

    def refuse(_endpoint: Endpoint) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr("userproxy.forwarding.udp.plane.connect_to", refuse)
        for _ in range(3):
            client.send(b"lost")
        await eventually(lambda: bench.listener.statistics.unserved == 3)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert bench.plane.budget.free == free
    await exchange(client, backend)


async def test_a_burst_beyond_the_limit_is_served_and_holds_no_more_descriptors() -> None:
    async with open_bench(UdpOptions(flow_limit=10, flow_limit_per_listener=10)) as bench:
        backend = bench.backend()
        bench.route(backend)
        burst = [bench.client() for _ in range(300)]
        held = OwnDescriptors()
        most = 0
        pick = bench.listener.balancer.pick

        class Watching(Balancer):
            def pick(self, client: str, now: float, tried: object = ()) -> Endpoint | None:
                nonlocal most
                most = max(most, len(held))
                return pick(client, now)

        bench.listener.chooser = Watching(Random(1))
        for client in burst:
            client.send(b"")
        statistics = bench.listener.statistics
        await eventually(lambda: statistics.accepted == len(burst))
        assert (statistics.active, statistics.unserved) == (10, 0)
        assert most == 9, "before the newest flow has its own"


@pytest.mark.slow
async def test_ten_thousand_flows_leave_nothing_behind() -> None:
    async with open_bench(UdpOptions(udp_timeout=0.05), descriptor_limit=20_000) as bench:
        backend = bench.backend()
        bench.route(backend)
        statistics = bench.listener.statistics
        sent = 0

        async def open_flows(count: int) -> None:
            nonlocal sent
            wanted = statistics.accepted + count
            while statistics.accepted < wanted:
                for _ in range(20):
                    with socket.socket(type=socket.SOCK_DGRAM) as client:
                        client.sendto(b"hello", (LOOPBACK, bench.listener.port))
                sent += 20
                await asyncio.sleep(0)
            await eventually(lambda: statistics.datagrams_up == sent and bench.listener.active == 0)

        await open_flows(500)
        held = OwnDescriptors()
        free = bench.plane.budget.free
        tracemalloc.start()
        try:
            await open_flows(500)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            await open_flows(9_000)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert statistics.accepted >= 10_000
        assert not len(held)
        assert bench.plane.budget.free == free
        assert len(bench.plane.poller) == 1
        assert grown < 200_000, "under 25 bytes a flow: buffers of dictionaries at most"


@pytest.mark.parametrize(("descriptors", "limits"), [(1_048_576, (16_384, 13_107)), (1024, (640, 512)), (1, (1, 1))])
def test_flow_limits_follow_the_limit_of_open_files(descriptors: int, limits: tuple[int, int]) -> None:
    assert flow_limits(descriptors) == limits


def test_processes_share_the_flows_that_a_node_may_have() -> None:
    assert flow_limits(100_000, processes=2)[0] == flow_limits(100_000)[0] // 2
    assert flow_limits(100, processes=2) == flow_limits(100)


async def test_a_listener_is_nobodys_endpoint(bench: Bench) -> None:
    other, backend, client = bench.listen("other"), bench.backend(), bench.client()
    own = [Endpoint(LOOPBACK, listener.port) for listener in (bench.listener, other)]
    snapshot = Snapshot(bench.listener.name, Verdict.SERVE, (*own, endpoint(backend)))
    bench.listener.balancer.update(snapshot)
    bench.listener.follow(snapshot)
    bench.route(backend, listener=other)
    for _ in range(3):
        await exchange(client, backend)
        client.close()
        client = bench.client()
    assert bench.listener.statistics.accepted == bench.listener.statistics.datagrams_up == 3
    assert other.statistics.accepted == 0
    other.close()
    successor = bench.backend(other.port)
    bench.route(successor)
    await exchange(bench.client(), successor)


@pytest.mark.parametrize("address", ["127.0.0.2", "0.0.0.0"])
async def test_a_listener_at_all_addresses_is_an_endpoint_at_none(bench: Bench, address: str) -> None:
    listener, backend = bench.listen("wide", DatagramSocket.open("0.0.0.0", 0)), bench.backend()
    snapshot = Snapshot(listener.name, Verdict.SERVE, (Endpoint(address, listener.port), endpoint(backend)))
    listener.balancer.update(snapshot)
    listener.follow(snapshot)
    for _ in range(3):
        await exchange(bench.client(listener), backend)
    assert listener.statistics.accepted == listener.statistics.datagrams_up == 3
