"""A forwarder with a listener whose clients are limited, and clients."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

from tests.forwarding.conftest import LOOPBACK, NAME, RESET, Serve, echo, eventually
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import Endpoint, IPFamily, Limits, Snapshot, Verdict
from userproxy.model.reports import Outcome


class Limited:
    """A forwarder with a listener whose clients are limited."""

    def __init__(self, forwarder: Forwarder, endpoint: Endpoint) -> None:
        self.forwarder = forwarder
        self.endpoint = endpoint
        self.port = forwarder.open(NAME)

    def limit(self, limits: Limits | None) -> None:
        self.forwarder.update(Snapshot(NAME, Verdict.SERVE, (self.endpoint,), limits=limits))

    async def reasons(self, outcome: Outcome = Outcome.REFUSED) -> list[str]:
        decisions = await self.forwarder.data_plane.decisions()
        return [each.reason for each in decisions if each.verdict is outcome]


@asynccontextmanager
async def limited(serve: Serve, limits: Limits | None, queue_timeout: float = 60.0) -> AsyncIterator[Limited]:
    addresses = {IPFamily.IPV4: LOOPBACK}
    options = ForwardingOptions(addresses, PortRange(), False, 60.0, 10_000, queue_timeout=queue_timeout)
    forwarder = Forwarder(asyncio.get_running_loop(), options, Random(1))
    try:
        bench = Limited(forwarder, Endpoint(*await serve(echo)))
        bench.limit(limits)
        yield bench
    finally:
        forwarder.shut_down()


class Client:
    """A client who has connected, to the kernel, and has said something."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), 10)
        self._socket.setblocking(False)
        self._socket.send(b"x")

    async def answer(self) -> bytes:
        async with asyncio.timeout(20):
            return await asyncio.get_running_loop().sock_recv(self._socket, 10)

    @property
    def is_answered(self) -> bool:
        try:
            return bool(self._socket.recv(10, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def reset_on_close(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def clients(port: int, count: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        found = [Client(port) for _ in range(count)]
        for each in found:
            stack.callback(each.close)
        yield found


async def answered(several: Sequence[Client], count: int) -> None:
    await eventually(lambda: sum(each.is_answered for each in several) == count)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
