"""Sockets of listeners that the control process opens, and what is counted of them."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from random import Random

import pytest
from msgspec import structs

from tests.forwarding.conftest import LOOPBACK, NAME
from tests.processes.control.test_forwarding import OPTIONS, UDP_NAME
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.model import IPFamily, ListenerName, Verdict
from userproxy.processes.control.groups.listener_sockets import ListenerSockets
from userproxy.processes.control.held import HeldListener

PROCESSES = 3


@pytest.fixture
async def budget() -> AsyncIterator[DescriptorBudget]:
    budget = DescriptorBudget(asyncio.get_running_loop(), 1000)
    yield budget
    budget.shut_down()


def sockets_of(budget: DescriptorBudget, limit: int = 1000, at_portals: int = 0) -> ListenerSockets:
    options = structs.replace(OPTIONS, descriptor_limit=limit)
    return ListenerSockets(options, budget, Random(1), PROCESSES, lambda: at_portals)


def held(sockets: ListenerSockets, name: ListenerName) -> HeldListener:
    sock = sockets.open(name, None, Verdict.SERVE)
    return HeldListener(asyncio.get_running_loop(), name, 1, sock, Verdict.SERVE, lambda _: None)


async def test_what_is_opened_is_counted_until_it_is_closed(budget: DescriptorBudget) -> None:
    sockets = sockets_of(budget)
    ports, room = budget.room_for_ports, sockets.room_in_groups
    tcp, udp = held(sockets, NAME), held(sockets, UDP_NAME)
    assert len(tcp.descriptors) == 1
    assert len(udp.descriptors) == PROCESSES + 1, "one keeps other programs away"
    assert (budget.room_for_ports, sockets.room_in_groups) == (ports - PROCESSES - 2, room - PROCESSES)
    sockets.close(tcp)
    sockets.close(udp)
    assert (budget.room_for_ports, sockets.room_in_groups) == (ports, room)


@pytest.mark.parametrize(("limit", "at_portals", "width"), [(20, 0, PROCESSES), (10, 0, 1), (20, 1, 1)])
async def test_portals_have_the_room_that_is_left(
    budget: DescriptorBudget, limit: int, at_portals: int, width: int
) -> None:
    assert sockets_of(budget, limit, at_portals).width() == width


async def test_a_listener_of_a_family_without_an_address_costs_nothing(budget: DescriptorBudget) -> None:
    options = structs.replace(OPTIONS, bind_addresses={})
    sockets = ListenerSockets(options, budget, Random(1), PROCESSES, lambda: 0)
    before = budget.room_for_ports
    with pytest.raises(PortUnavailableError, match="no address"):
        sockets.open(NAME, None, Verdict.SERVE)
    assert budget.room_for_ports == before


async def test_sockets_that_were_left_are_used_as_they_are(budget: DescriptorBudget) -> None:
    sockets = sockets_of(budget)
    left = DatagramGroup.open(LOOPBACK, 0)
    port = left.port
    sockets.inherit(UDP_NAME, LOOPBACK, os.dup(left.descriptors[0]))
    left.close()
    udp = held(sockets, UDP_NAME)
    assert (udp.port, len(udp.descriptors)) == (port, PROCESSES + 1)
    sockets.close(udp)


async def test_a_socket_that_was_left_and_that_cannot_be_used_is_counted_no_more(budget: DescriptorBudget) -> None:
    sockets = sockets_of(budget)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        sockets.inherit(NAME, LOOPBACK, os.dup(other.fileno()))
    before = budget.room_for_ports
    with pytest.raises(PortUnavailableError, match="not supported"):
        sockets.open(NAME, None, Verdict.SERVE)
    assert budget.room_for_ports == before


async def test_what_nobody_has_asked_for_is_closed_by_family(budget: DescriptorBudget) -> None:
    sockets = sockets_of(budget)
    one, other = os.pipe()
    sockets.inherit(NAME, LOOPBACK, one)
    sockets.inherit(structs.replace(UDP_NAME, family=IPFamily.IPV6), "::1", other)
    sockets.close_inherited(IPFamily.IPV4)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(one)
    os.close(other)
