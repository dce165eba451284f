"""Benches and sockets that several test files have."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest

from tests.forwarding.udp.bench import Bench, open_bench
from userproxy.addresses import IPFamily
from userproxy.forwarding.udp.sockets import DatagramSocket

FAMILIES = [(IPFamily.IPV4, "0.0.0.0", "127.0.0.1"), (IPFamily.IPV6, "::", "::1")]


@pytest.fixture(params=FAMILIES, ids=["IPv4", "IPv6"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[IPFamily, DatagramSocket, socket.socket]]:
    """A listener at every address, and a client that takes datagrams from the address it writes to alone."""
    family, everywhere, address = request.param
    with (
        closing(DatagramSocket.open(everywhere, 0)) as listener,
        socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(5)
        client.connect((address, listener.port))
        yield family, listener, client


Ends = tuple[IPFamily, DatagramSocket, socket.socket]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as opened:
        yield opened
