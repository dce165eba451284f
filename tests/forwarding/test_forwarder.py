"""Opening, closing and draining; and that nothing is left behind."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import LOOPBACK, NAME, Bench, Connected, Serve, echo, eventually, open_bench, snapshot
from userproxy.demo.hosts import Host
from userproxy.errors import OutOfDescriptorsError, PortUnavailableError
from userproxy.forwarding import descriptors
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.descriptors import count_descriptors
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports.listeners import NODE_PORTS
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import (
    Endpoint,
    IPFamily,
    ListenerName,
    Protocol,
    ServicePortName,
    Snapshot,
    TrafficClass,
    Verdict,
)
from userproxy.routing.balancer import Balancer

OTHER = ListenerName(ServicePortName("default", "other", "", Protocol.TCP))


def some_listeners(count: int) -> list[ListenerName]:
    """Of both protocols and families."""
    names = [
        ListenerName(ServicePortName("default", f"s{n}", "", protocol), family)
        for n in range(count)
        for protocol in (Protocol.TCP, Protocol.UDP)
        for family in IPFamily
    ]
    return names[:count]


@pytest.mark.usefixtures("root")
async def test_listeners_keep_off_node_ports_and_our_servers_though_the_kernel_would_not() -> None:
    with Host("node") as node:
        node.sysctl("net.ipv4.ip_local_port_range", "29900 33100")
        forwarder = node.inside(a_forwarder, asyncio.get_running_loop(), (NODE_PORTS, PortRange(32_900, 32_950)))
        try:
            forwarder.keep_off(33_000)
            ports = [node.inside(forwarder.open, name) for name in some_listeners(600)]
        finally:
            forwarder.shut_down()
    allowed = {*range(29_900, 30_000), *range(32_768, 32_900), *range(32_951, 33_000), *range(33_001, 33_101)}
    assert set(ports) <= allowed
    assert max(ports) > 32_768 > 30_000 > min(ports)


def a_forwarder(loop: asyncio.AbstractEventLoop, kept: tuple[PortRange, ...]) -> Forwarder:
    addresses = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}
    options = ForwardingOptions(addresses, PortRange(), False, 60.0, 10_000, kept_ports=kept)
    return Forwarder(loop, options, random.Random(1))


async def test_closing_refuses_new_clients_and_keeps_the_old(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"1")
    assert await reader.readexactly(1) == b"1"
    bench.forwarder.close(NAME)
    await eventually_refused(bench)
    writer.write(b"2")
    assert await reader.readexactly(1) == b"2"
    writer.close()
    await bench.eventually_idle()


async def eventually_refused(bench: Bench) -> None:
    for _ in range(100):
        try:
            _, writer = await bench.connect()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # it came while the listener was closing
        writer.close()
    pytest.fail("the listener goes on accepting")


async def test_draining_waits_for_connections(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"1")
    await reader.readexactly(1)
    async with asyncio.TaskGroup() as group:
        drained = group.create_task(bench.forwarder.drain(20), name="drain")
        await asyncio.sleep(0)
        writer.write(b"2")
        assert await reader.readexactly(1) == b"2"
        assert not drained.done()
        writer.close()
    assert drained.result() == 0


async def test_a_snapshot_of_a_drained_listener_counts_for_the_connections_that_are_left(
    bench: Bench, serve: Serve
) -> None:
    a, b = Endpoint(*await serve(echo)), Endpoint(*await serve(echo))
    bench.forwarder.update(snapshot(NAME, a))
    client = await Connected.to(bench.address[1])
    async with asyncio.TaskGroup() as group:
        drained = group.create_task(bench.forwarder.drain(20), name="drain")
        await asyncio.sleep(0)
        bench.forwarder.update(snapshot(NAME, b))
        assert await client.is_alive()
        assert not drained.done()
        bench.forwarder.update(snapshot(NAME, b, known=(b,)))
        assert not await client.is_alive()


async def test_draining_resets_what_outlasts_it(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"1")
    await reader.readexactly(1)
    assert await bench.forwarder.drain(0.05) == 1
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


@contextlib.asynccontextmanager
async def asked(bench: Bench) -> AsyncIterator[tuple[socket.socket, Callable[[bytes], object]]]:
    """A UDP client, and what sends it the answer that it waits for."""
    name = ListenerName(ServicePortName("default", "dns", "", Protocol.UDP))
    with socket.socket(type=socket.SOCK_DGRAM) as backend, socket.socket(type=socket.SOCK_DGRAM) as client:
        for sock in (backend, client):
            sock.setblocking(False)
            sock.bind((LOOPBACK, 0))
        client.connect((LOOPBACK, bench.forwarder.open(name)))
        bench.forwarder.update(Snapshot(name, Verdict.SERVE, (Endpoint(*backend.getsockname()),)))
        client.send(b"question")
        statistics = bench.forwarder.statistics(name)
        assert isinstance(statistics, UdpStatistics)
        await eventually(lambda: statistics.datagrams_up == 1)
        _, flow = backend.recvfrom(100)
        yield client, lambda answer: backend.sendto(answer, flow)


async def test_draining_waits_for_the_answers_that_udp_clients_have_asked_for(bench: Bench) -> None:
    """The flow's socket is the only one that can take them."""
    async with asked(bench) as (client, answer), asyncio.TaskGroup() as group:
        drained = group.create_task(bench.forwarder.drain(20), name="drain")
        await asyncio.sleep(0.15)
        assert not drained.done()
        answer(b"answer")
        async with asyncio.timeout(1):
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"answer"
            assert await drained == 0


@pytest.mark.parametrize(("seconds", "most"), [(0.2, 1.5), (20.0, 5.0)])
async def test_draining_waits_no_longer_than_it_may_or_than_an_answer_takes(
    bench: Bench, seconds: float, most: float
) -> None:
    async with asked(bench):
        async with asyncio.timeout(most):
            assert await bench.forwarder.drain(seconds) == 0


async def test_clients_in_the_queue_are_served_before_the_listener_closes(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    clients = [socket.create_connection(bench.address) for _ in range(20)]
    bench.forwarder.close(NAME)  # the loop had no chance to accept any of them
    for client in clients:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(client, b"x")
        assert await asyncio.get_running_loop().sock_recv(client, 1) == b"x"
        client.close()
    await bench.eventually_idle()


@pytest.mark.usefixtures("uncounted")
async def test_out_of_descriptors_everybody_is_served_in_the_end(serve: Serve) -> None:
    address = await serve(echo)
    with capture_logs() as logs:
        await serve_two_hundred_with_few_descriptors(address)
    assert [entry["event"][:18] for entry in logs] == ["Out of descriptors"]


async def serve_two_hundred_with_few_descriptors(address: tuple[str, int]) -> None:
    async with open_bench(descriptor_limit=count_descriptors() + 64 + 20) as bench:
        bench.route_to(address)

        async def ask(n: int) -> None:
            reader, writer = await bench.connect()
            writer.write(b"%d" % n)
            writer.write_eof()
            assert await reader.read() == b"%d" % n
            writer.close()

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for n in range(200):
                group.create_task(ask(n), name=f"client {n}")
        await bench.eventually_idle()


async def test_recounting_while_connections_are_being_closed_loses_no_descriptor(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    writers = [(await bench.connect())[1] for _ in range(20)]
    await eventually(lambda: bench.forwarder.active == 20)
    bench.forwarder.recount_descriptors()
    left = bench.forwarder._budget.free
    bench.forwarder.reset_connections()
    bench.forwarder.recount_descriptors()
    assert bench.forwarder._budget.free == left + 40
    for writer in writers:
        writer.close()


@pytest.mark.usefixtures("uncounted")
async def test_listeners_leave_half_of_the_reserve_to_the_rest() -> None:
    async with open_bench(descriptor_limit=20 + descriptors.RESERVE + 1) as bench:
        names = [ListenerName(ServicePortName("default", f"s{n}", "", Protocol.TCP)) for n in range(32)]
        for name in names[:31]:
            bench.forwarder.open(name)
        with pytest.raises(OutOfDescriptorsError, match="the limit of open files, 85, leaves 32 to listeners"):
            bench.forwarder.open(names[31])


@pytest.mark.usefixtures("uncounted")
async def test_listeners_and_claims_leave_a_third_of_all_descriptors_to_connections() -> None:
    async with open_bench(descriptor_limit=64 + 300) as bench:
        forwarder = bench.forwarder
        for name in some_listeners(100):
            forwarder.open(name)
        for _ in range(99):
            forwarder.take_for_port()
        assert forwarder.room_for_ports == 0
        with pytest.raises(OutOfDescriptorsError, match="364, leaves 200 to listeners and node ports"):
            forwarder.open(OTHER)
        with pytest.raises(OutOfDescriptorsError):
            forwarder.take_for_port()
        forwarder.give_port()
        assert forwarder.room_for_ports == 1
        forwarder.open(OTHER)
        forwarder.close(OTHER)
        for name in some_listeners(100):
            forwarder.close(name)
        assert forwarder.room_for_ports == 101


EXTERNAL = ListenerName(NAME.service_port, traffic=TrafficClass.EXTERNAL)


async def test_a_protocol_that_is_not_forwarded_says_so(bench: Bench) -> None:
    left = bench.forwarder._budget.free
    sctp = ListenerName(ServicePortName("default", "web", "http", Protocol.SCTP))
    with pytest.raises(PortUnavailableError, match="SCTP is not forwarded"):
        bench.forwarder.open(sctp)
    assert bench.forwarder._budget.free == left


async def test_a_snapshot_that_is_in_force_is_not_followed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[Snapshot] = []
    update = Balancer.update

    def watched(balancer: Balancer, snapshot: Snapshot) -> None:
        followed.append(snapshot)
        update(balancer, snapshot)

    monkeypatch.setattr(Balancer, "update", watched)
    forwarder = a_forwarder(asyncio.get_running_loop(), ())
    forwarder.open(NAME)
    one, other = (Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, port),)) for port in (1, 2))
    for each in (one, Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 1),)), other, one):
        forwarder.update(each)
    forwarder.close(NAME)
    forwarder.open(NAME)
    forwarder.update(one)
    forwarder.shut_down()
    assert followed == [one, other, one, one]
