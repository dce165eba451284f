"""UDP listeners with real sockets on loopback, on both loops."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from structlog.testing import capture_logs

from tests.forwarding.clocked import ClockedLoop
from tests.forwarding.conftest import LOOPBACK, eventually
from tests.forwarding.udp.bench import Bench, endpoint, exchange, received
from userproxy.demo.hosts import Host
from userproxy.forwarding.udp import listener as of_listener
from userproxy.forwarding.udp.groups.further import FurtherSockets
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.groups.spreading import member_of
from userproxy.forwarding.udp.plane import UdpOptions
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.model import PortalAddress, Protocol, Snapshot, Verdict


async def test_what_clients_wrote_to_is_known_where_one_portal_leads_here(bench: Bench) -> None:
    backend, first, second = bench.backend(), bench.client(), bench.client()
    for client, portal in ((first, PortalAddress("10.96.0.53", Protocol.UDP, 53)), (second, None)):
        snapshot = Snapshot(bench.listener.name, Verdict.SERVE, (endpoint(backend),), portal=portal)
        bench.listener.balancer.update(snapshot)
        bench.listener.follow(snapshot)
        await exchange(client, backend)
    assert [flow.portal for flow in bench.listener.flows] == [("10.96.0.53", 53), None], "each its own"
    bench.listener.close()
    assert [entry[3] for entry in bench.listener.decisions] == [("10.96.0.53", 53), None]


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
    DatagramSocket.open(LOOPBACK, port).close()


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
    sock = multi_homed.node.inside(DatagramSocket.open, "0.0.0.0" if four else "::", 0)
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
    listener = bench.listen("homed", node.inside(DatagramSocket.open, "0.0.0.0", 0))
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


@pytest.mark.parametrize("kind", ["an error", pytest.param("a bug", marks=pytest.mark.bugs)])
async def test_what_cannot_be_read_at_a_further_socket_is_tried_again_after_a_pause(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The poller would tell of it time and again, and the loop do nothing else."""
    tries: list[int] = []

    def fail(descriptor: int, *_: object) -> int:
        tries.append(descriptor)
        if kind == "a bug":
            raise RuntimeError(kind)
        return -1

    group = DatagramGroup.open(LOOPBACK, 0)
    group.widen(2)
    listener = bench.listen("hot", group.members[0])
    listener.further = FurtherSockets.of(group, bench.plane.poller, listener)
    backend = bench.backend()
    clients = [bench.client(listener) for _ in range(20)]
    client = next(each for each in clients if member_of(each.getsockname(), 2) == 1)
    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(of_listener, "receive_batch", fail)
        broken.setattr(of_listener, "last_error", lambda: errno.ENOMEM)
        bench.route(backend, listener=listener)
        client.send(b"question")
        await eventually(lambda: bool(tries))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(tries) < 5
    assert len([each for each in logs if each["event"] == "Receiving pauses"]) == (kind == "an error")
    await exchange(client, backend, b"question")
    listener.close()
