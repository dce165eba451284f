"""Sockets that a listener reads besides its own: which are read, which are closed, what the kernel dropped there."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.forwarding.conftest import LOOPBACK, eventually
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.udp.groups.further import FurtherSockets, inode_of
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.groups.spreading import member_of
from userproxy.forwarding.udp.statistics import UdpStatistics


class Reader:
    """Keeps what it reads."""

    def __init__(self) -> None:
        self.statistics = UdpStatistics()
        self.found: list[bytes] = []

    def abort(self) -> None:
        raise AssertionError("a handler has failed")

    def read(self, events: int, descriptor: int) -> None:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            self.found.append(sock.recv(100))  # one, and it is called again


@pytest.fixture
def group() -> Iterator[DatagramGroup]:
    with closing(DatagramGroup.open(LOOPBACK, 0)) as opened:
        opened.widen(2)
        yield opened


def send(group: DatagramGroup, count: int, member: int) -> None:
    """Have new clients, each of a member, send something."""
    while count:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((LOOPBACK, group.port))
            if member_of(client.getsockname(), 2) == member:
                client.send(b"x")
                count -= 1


async def test_what_comes_there_is_read_once_it_is_to_be_watched_and_no_longer_than_it_is_wanted(
    group: DatagramGroup,
) -> None:
    poller, reader = Poller(asyncio.get_running_loop()), Reader()
    further = FurtherSockets(poller, reader)
    try:
        further.follow([os.dup(group.members[1].fileno())])
        send(group, 3, 1)
        await asyncio.sleep(0)
        assert reader.found == []
        further.watch()
        await eventually(lambda: reader.found == [b"x"] * 3)
        before = further.descriptors
        further.follow([os.dup(group.members[1].fileno())])
        assert further.descriptors == before, "the same socket, whatever its descriptor"
        send(group, 1, 1)
        await eventually(lambda: reader.found == [b"x"] * 4)
        further.follow([])
        assert further.descriptors == []
        assert len(poller) == 0
        send(group, 1, 1)
        await asyncio.sleep(0)
        assert reader.found == [b"x"] * 4
    finally:
        poller.shut_down()


async def test_what_the_kernel_drops_there_counts_from_then_on(group: DatagramGroup) -> None:
    poller, reader = Poller(asyncio.get_running_loop()), Reader()
    try:
        overflow(group)
        further = FurtherSockets(poller, reader)
        further.follow([os.dup(group.members[1].fileno())])
        assert reader.statistics.dropped == 0
        overflow(group)
        dropped = reader.statistics.dropped
        assert dropped > 0
        further.close()
        assert reader.statistics.dropped == dropped
    finally:
        poller.shut_down()


def overflow(group: DatagramGroup) -> None:
    """Have a client of the second member send more than its socket takes."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((LOOPBACK, group.port))
            if member_of(client.getsockname(), 2) == 1:
                for _ in range(100):
                    client.send(b"x" * 60_000)
                return


def test_a_socket_is_known_by_its_inode(group: DatagramGroup) -> None:
    copy = os.dup(group.members[0].fileno())
    assert inode_of(copy) == inode_of(group.members[0].fileno()) != inode_of(group.members[1].fileno())
    os.close(copy)
