"""UDP listeners and flows with real sockets on loopback, on both loops."""

import asyncio
import errno
import gc
import os
import socket
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from random import Random

import pytest
from structlog.testing import capture_logs

from tests.forwarding.clocked import ClockedLoop
from tests.forwarding.conftest import eventually
from userproxy.demo.hosts import Host
from userproxy.forwarding.descriptors import DescriptorBudget, open_descriptors
from userproxy.forwarding.udp.datagrams import DatagramSocket
from userproxy.forwarding.udp.flows import STREAM_AFTER
from userproxy.forwarding.udp.listener import KEPT_BYTES, UdpListener, UdpOptions, UdpPlane, UdpStatistics, flow_limits
from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.routing.balancer import Balancer

LOOPBACK = "127.0.0.1"


def listener_name(name: str = "dns", family: IPFamily = IPFamily.IPV4) -> ListenerName:
    return ListenerName(ServicePortName("default", name, "", Protocol.UDP), family)


class Bench:
    """UDP listeners, and sockets for clients and backends that are closed with it."""

    def __init__(
        self,
        stack: ExitStack,
        options: UdpOptions,
        descriptor_limit: int,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        loop = loop or asyncio.get_running_loop()
        self._stack = stack
        self.plane = UdpPlane(loop, DescriptorBudget(loop, descriptor_limit), options)
        stack.callback(self.plane.shut_down)
        self.listener = self.listen()

    def listen(self, name: str = "dns", sock: DatagramSocket | None = None) -> UdpListener:
        sock = sock or DatagramSocket(LOOPBACK, 0)
        assert self.plane.budget.take_for_port()
        return UdpListener(
            self.plane, listener_name(name, sock.family_name), sock, Balancer(Random(1)), UdpStatistics()
        )

    def route(
        self,
        *backends: socket.socket,
        listener: UdpListener | None = None,
        verdict: Verdict = Verdict.SERVE,
        known: tuple[Endpoint, ...] | None = None,
        udp_timeout: float | None = None,
    ) -> None:
        listener = listener or self.listener
        endpoints = tuple(endpoint(backend) for backend in backends)
        snapshot = Snapshot(listener.name, verdict, endpoints, known=known, udp_timeout=udp_timeout)
        listener.balancer.update(snapshot)
        listener.follow(snapshot)

    def client(self, listener: UdpListener | None = None) -> socket.socket:
        """A client that takes answers from the address it writes to alone."""
        sock = self.backend()
        sock.connect((LOOPBACK, (listener or self.listener).port))
        return sock

    def backend(self, port: int = 0) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        sock.setblocking(False)
        sock.bind((LOOPBACK, port))
        return sock


def endpoint(sock: socket.socket) -> Endpoint:
    return Endpoint(*sock.getsockname()[:2])


@asynccontextmanager
async def open_bench(options: UdpOptions | None = None, descriptor_limit: int = 10_000) -> AsyncIterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, options or UdpOptions(), descriptor_limit)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as opened:
        yield opened


async def received(sock: socket.socket, size: int = 65_536) -> bytes:
    return (await received_from(sock, size))[0]


async def received_from(sock: socket.socket, size: int = 65_536) -> tuple[bytes, tuple[str, int]]:
    """The next datagram and its sender."""
    found: list[tuple[bytes, tuple[str, int]]] = []

    def look() -> bool:
        try:
            found.append(sock.recvfrom(size))
        except BlockingIOError:
            return False
        return True

    await eventually(look)
    return found[0]


async def exchange(client: socket.socket, backend: socket.socket, question: bytes = b"question") -> tuple[str, int]:
    """A question that is answered; returns the flow's own address."""
    client.send(question)
    data, flow = await received_from(backend)
    assert data == question
    backend.sendto(b"answer to " + question, flow)
    assert await received(client) == b"answer to " + question
    return flow


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


async def test_datagrams_wait_for_the_first_snapshot(bench: Bench) -> None:
    client, backend = bench.client(), bench.backend()
    client.send(b"early")
    await asyncio.sleep(0)
    bench.route(backend)
    assert await received(backend) == b"early"


async def test_reject_refuses_ends_flows_and_serves_again_on_the_same_port(bench: Bench) -> None:
    client, backend = bench.client(), bench.backend()
    bench.route(backend)
    await exchange(client, backend)
    bench.route(verdict=Verdict.REJECT)
    assert bench.listener.active == 0
    client.send(b"refused")
    with pytest.raises(ConnectionRefusedError):
        await received(client)
    bench.route(backend)
    await exchange(client, backend)


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
        patch.setattr("userproxy.forwarding.udp.start_flow", refuse)
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
        held = open_descriptors()
        most = 0
        pick = bench.listener.balancer.pick

        class Watching(Balancer):
            def pick(self, client: str, now: float, tried: object = ()) -> Endpoint | None:
                nonlocal most
                most = max(most, open_descriptors() - held)
                return pick(client, now)

        bench.listener.balancer = Watching(Random(1))
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
        held = open_descriptors()
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
        assert open_descriptors() == held
        assert bench.plane.budget.free == free
        assert len(bench.plane.poller) == 1
        assert grown < 200_000, "under 25 bytes a flow: buffers of dictionaries at most"


async def test_closing_ends_flows_and_frees_the_port(bench: Bench) -> None:
    backend, client = bench.backend(), bench.client()
    bench.route(backend)
    await exchange(client, backend)
    free, port = bench.plane.budget.free, bench.listener.port
    bench.listener.close()
    bench.listener.close()
    assert bench.plane.budget.free == free + 2
    assert bench.plane.active == bench.listener.statistics.active == len(bench.plane.listeners) == 0
    assert len(bench.plane.poller) == 0
    client.send(b"nobody")
    with pytest.raises(ConnectionRefusedError):
        await received(client)
    DatagramSocket(LOOPBACK, port).close()


async def test_kernel_drops_are_counted_also_after_the_end(bench: Bench) -> None:
    bench.listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client, statistics = bench.client(), bench.listener.statistics
    for _ in range(100):
        client.send(bytes(1000))
    count = statistics.dropped
    assert count > 0
    bench.route()
    await eventually(lambda: statistics.unserved == 100 - count)
    bench.listener.close()
    assert statistics.dropped == count


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


@pytest.mark.parametrize(("descriptors", "limits"), [(1_048_576, (16_384, 13_107)), (1024, (640, 512)), (1, (1, 1))])
def test_flow_limits_follow_the_limit_of_open_files(descriptors: int, limits: tuple[int, int]) -> None:
    assert flow_limits(descriptors) == limits


class MultiHomed:
    """A client with a node that it reaches by two links and several addresses."""

    LINKS = ("0", "1")

    def __init__(self, client: Host, node: Host) -> None:
        self.client = client
        self.node = node
        for link in self.LINKS:
            node.ip_batch([f"link add eth{link} type veth peer name eth{link} netns {client.pid}"])
            for host, number in ((node, 1), (client, 2)):
                host.sysctl(f"net.ipv6.conf.eth{link}.accept_dad", 0)
                host.ip_batch(
                    [
                        f"addr add 10.0.{link}.{number}/24 dev eth{link}",
                        f"addr add fd00:{link}::{number}/64 dev eth{link} nodad",
                        f"addr add fe80::{number}/64 dev eth{link} nodad",
                        f"link set eth{link} up",
                    ]
                )
        node.ip_batch(
            ["addr add 10.0.0.77/24 dev eth0", "addr add fd00:0::77/64 dev eth0 nodad", "addr add 10.99.0.1/32 dev lo"]
        )
        client.ip_batch(["route add 10.99.0.1 via 10.0.1.1"])


@pytest.fixture
def multi_homed(root: None) -> Iterator[MultiHomed]:
    with Host("client") as client, Host("node") as node:
        yield MultiHomed(client, node)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "10.0.0.77",
        "10.0.1.1",
        "10.99.0.1",
        "fd00:0::1",
        "fd00:0::77",
        "fd00:1::1",
        "fe80::1",
        "fe80::1 from fd00:1::2",
    ],
)
async def test_answers_come_from_the_address_that_the_client_wrote_to(
    bench: Bench, multi_homed: MultiHomed, address: str
) -> None:
    four = "." in address
    sock = multi_homed.node.inside(DatagramSocket, "0.0.0.0" if four else "::", 0)
    backend = bench.backend()
    listener = bench.listen("homed", sock)
    bench.route(backend, listener=listener)
    scope = 0
    address, _, source = address.partition(" from ")
    if address == "fe80::1":
        scope = multi_homed.client.inside(socket.if_nametoindex, "eth1")
    with multi_homed.client.socket(socket.AF_INET if four else socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        if source:
            client.bind((source, 0))
        client.connect((address, listener.port) if four else (address, listener.port, 0, scope))
        flow = await exchange(client, backend)
        assert await exchange(client, backend, b"again") == flow


async def test_a_flow_is_the_same_by_whatever_link_its_client_comes(bench: Bench, multi_homed: MultiHomed) -> None:
    """Routes change. The answer takes the way that leads to the client, not the one that the question came."""
    node, client_host = multi_homed.node, multi_homed.client
    for host in (node, client_host):
        for name in ("all", "eth0", "eth1"):
            host.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
    backend = bench.backend()
    listener = bench.listen("homed", node.inside(DatagramSocket, "0.0.0.0", 0))
    bench.route(backend, listener=listener)
    client_host.ip_batch(["addr add 10.98.0.1/32 dev lo"])
    node.ip_batch(["route add 10.98.0.1 via 10.0.1.2"])
    with client_host.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.bind(("10.98.0.1", 0))
        client.connect(("10.99.0.1", listener.port))
        flow = await exchange(client, backend)
        client_host.ip_batch(["route replace 10.99.0.1 via 10.0.0.1", "link set eth1 down"])
        node.ip_batch(["route replace 10.98.0.1 via 10.0.0.2"])
        assert await exchange(client, backend, b"by another link") == flow
    assert listener.active == 1


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
    listener, backend = bench.listen("wide", DatagramSocket("0.0.0.0", 0)), bench.backend()
    snapshot = Snapshot(listener.name, Verdict.SERVE, (Endpoint(address, listener.port), endpoint(backend)))
    listener.balancer.update(snapshot)
    listener.follow(snapshot)
    for _ in range(3):
        await exchange(bench.client(listener), backend)
    assert listener.statistics.accepted == listener.statistics.datagrams_up == 3


def test_a_port_that_cannot_be_had_back_is_asked_for_once_a_second_and_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[float] = []

    def refused(_sock: DatagramSocket) -> None:
        tries.append(loop.now)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    with closing(ClockedLoop()) as loop, ExitStack() as stack, capture_logs() as logs:
        bench = Bench(stack, UdpOptions(), 10_000, loop)
        backend = bench.backend()
        bench.route(verdict=Verdict.REJECT)
        with monkeypatch.context() as patch:
            patch.setattr(DatagramSocket, "admit", refused)
            for _ in range(100):
                bench.route(backend)
            for _ in range(3):
                loop.advance(1.0)
        assert len(tries) == 4
        assert [entry["reason"] for entry in logs if entry["log_level"] == "error"] == ["Address already in use"]
        client = bench.client()
        loop.advance(1.0)
        client.send(b"1")
        loop.turn()
        assert backend.recv(10) == b"1"
