"""UDP listeners on loopback, with sockets for clients and backends."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from random import Random

from tests.forwarding.conftest import LOOPBACK, eventually
from userproxy.addresses import IPFamily
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.udp.datagrams import BATCH, Inbox, receive_batch
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.plane import UdpOptions, UdpPlane
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.routing.balancer import Balancer


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
        sock = sock or DatagramSocket.open(LOOPBACK, 0)
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
        draining: tuple[socket.socket, ...] = (),
    ) -> None:
        listener = listener or self.listener
        endpoints = tuple(endpoint(backend) for backend in backends)
        left = tuple(map(endpoint, draining))
        snapshot = Snapshot(listener.name, verdict, endpoints, known=known, udp_timeout=udp_timeout, draining=left)
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


def received_batch(sock: DatagramSocket, inbox: Inbox) -> list[bytes]:
    count = receive_batch(sock.fileno(), inbox.headers, BATCH, 0, None)
    return [inbox.memory[start : start + inbox.sizes[i]] for i, start in enumerate(inbox.starts[: max(count, 0)])]
