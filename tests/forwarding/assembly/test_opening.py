"""Which ports listeners get, and with whose sockets they are opened."""

import os
import socket

import pytest
from msgspec.structs import replace

from tests.forwarding.conftest import LOOPBACK, Bench, open_bench
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports.listeners import NODE_PORTS, ListenerPorts
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import IPFamily, ListenerName, Protocol, ServicePortName, Verdict

OTHER = ListenerName(ServicePortName("default", "other", "", Protocol.TCP))
DNS = ListenerName(ServicePortName("default", "dns", "", Protocol.UDP))


async def test_a_preferred_port_is_taken_if_it_is_free(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        assert bench.forwarder.open(OTHER, port) != port
        bench.forwarder.close(OTHER)
    assert bench.forwarder.open(OTHER, port) == port


async def test_a_range_without_a_free_port_says_so() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        async with open_bench() as bench:
            bench.forwarder._opening.ports = ListenerPorts(PortRange(port, port))
            with pytest.raises(PortUnavailableError, match=rf"no free port was found on 127\.0\.0\.1 among {port}$"):
                bench.forwarder.open(OTHER)


async def test_an_address_that_is_not_ours_is_not_tried_with_every_port() -> None:
    async with open_bench() as bench:
        bind_to(bench.forwarder, {IPFamily.IPV4: "192.0.2.1"})
        with pytest.raises(PortUnavailableError, match=r"cannot listen on 192\.0\.2\.1:\d+: Cannot assign"):
            bench.forwarder.open(OTHER)


async def test_the_port_of_an_earlier_process_is_not_taken_again_if_it_is_a_node_port(bench: Bench) -> None:
    bench.forwarder._opening.ports = ListenerPorts(PortRange(), (NODE_PORTS,))
    assert bench.forwarder.open(OTHER, 30_123) != 30_123
    bench.forwarder.close(OTHER)
    bench.forwarder.keep_off(41_234)
    assert bench.forwarder.open(OTHER, 41_234) != 41_234


async def test_a_family_without_an_address_says_so_and_costs_no_descriptor(bench: Bench) -> None:
    left = bench.forwarder._budget.free
    bind_to(bench.forwarder, {IPFamily.IPV6: "::1"})
    with pytest.raises(PortUnavailableError, match="no address to bind IPv4 listeners to"):
        bench.forwarder.open(OTHER)
    assert bench.forwarder._budget.free == left


@pytest.mark.parametrize("name", [OTHER, DNS], ids=["TCP", "UDP"])
async def test_an_inherited_socket_is_used_once_and_keeps_its_port(bench: Bench, name: ListenerName) -> None:
    kind = socket.SOCK_STREAM if name is OTHER else socket.SOCK_DGRAM
    with socket.socket(type=kind) as inherited:
        inherited.bind((LOOPBACK, 0))
        port = inherited.getsockname()[1]
        bench.forwarder.inherit(name, LOOPBACK, os.dup(inherited.fileno()))
    assert bench.forwarder.open(name, verdict=Verdict.SERVE) == port
    bench.forwarder.close(name)
    assert bench.forwarder.open(name, 1) != port, "another socket, since the first one is closed"


async def test_inherited_sockets_that_nobody_has_asked_for_are_closed_by_family(bench: Bench) -> None:
    with socket.socket() as inherited:
        copies = {each: os.dup(inherited.fileno()) for each in IPFamily}
    for family, descriptor in copies.items():
        bench.forwarder.inherit(replace(OTHER, family=family), LOOPBACK, descriptor)
    bench.forwarder.close_unasked(IPFamily.IPV4)
    assert not is_open(copies[IPFamily.IPV4])
    assert is_open(copies[IPFamily.IPV6])
    bench.forwarder.close_unasked(IPFamily.IPV6)
    assert not is_open(copies[IPFamily.IPV6])


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def bind_to(forwarder: Forwarder, addresses: dict[IPFamily, str]) -> None:
    forwarder._opening._options = replace(forwarder._opening._options, bind_addresses=addresses)
