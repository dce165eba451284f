"""A listener as the control process holds it, which reads none of its sockets."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
import structlog

from tests.forwarding.conftest import LOOPBACK
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.processes.control.held import HeldListener

DNS = ListenerName(ServicePortName("default", "dns", "", Protocol.UDP))
ENDPOINTS = (Endpoint("10.0.0.1", 53),)
SERVED = Snapshot(DNS, Verdict.SERVE, ENDPOINTS)
STICKY = Snapshot(DNS, Verdict.SERVE, ENDPOINTS, 600)
NOBODY, STICKY_NOBODY = Snapshot(DNS, Verdict.REJECT), Snapshot(DNS, Verdict.REJECT, (), 600)


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    """Of one address, with a port each."""
    with ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(16)]
        for each in made:
            each.bind((LOOPBACK, 0))
        yield made


def listener(group: DatagramGroup) -> HeldListener:
    return HeldListener(asyncio.get_running_loop(), DNS, 1, group, Verdict.SERVE, lambda _: None)


def readers(held: HeldListener, clients: list[socket.socket]) -> set[int]:
    """The numbers of the sockets to which the kernel gives the clients' datagrams."""
    assert isinstance(held.sock, DatagramGroup)
    for each in clients:
        each.sendto(b"x", (LOOPBACK, held.port))
    found = set()
    for number, member in enumerate(held.sock.members):
        try:
            while True:
                member.recv(10)
                found.add(number)
        except BlockingIOError:
            pass
    return found


@pytest.mark.parametrize(
    ("before", "after", "of_one"),
    [
        (NOBODY, STICKY, True),
        (STICKY_NOBODY, STICKY, True),
        (STICKY_NOBODY, SERVED, False),
        (NOBODY, SERVED, False),
    ],
)
@pytest.mark.parametrize("adopted", [False, True])
async def test_who_was_refused_is_spread_as_the_service_wants_it_by_then(
    clients: list[socket.socket], before: Snapshot, after: Snapshot, *, of_one: bool, adopted: bool
) -> None:
    """Also where the sockets, which refuse their clients, come from another process."""
    group = DatagramGroup.open(LOOPBACK, 0)
    group.widen(2)
    held = listener(group)
    with structlog.testing.capture_logs() as logs:
        held.follow(STICKY if adopted else SERVED)
        held.follow(before)
        if adopted:
            descriptors = [os.dup(each) for each in group.descriptors]
            held.close()
            held = listener(DatagramGroup.adopt(descriptors, LOOPBACK))
            held.adopt(Verdict.REJECT, before)
            held.follow(before)
        with closing(held):
            held.follow(after)
            assert (len(readers(held, clients)) == 1) is of_one
    assert [each for each in logs if each["log_level"] == "error"] == []
