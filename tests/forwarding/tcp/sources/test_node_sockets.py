"""Sockets with the node's address: none is left open where another one cannot be had in its place."""

import errno
import os
import time
from socket import SocketType

import pytest

from userproxy.forwarding.listener_addresses import ListenerAddresses
from userproxy.forwarding.tcp.source_ports import SourcePorts
from userproxy.forwarding.tcp.sources import node_sockets
from userproxy.forwarding.tcp.sources.node_sockets import NodeSockets
from userproxy.model import Endpoint

ENDPOINT = Endpoint("127.0.0.1", 80)


def test_a_socket_without_a_port_is_closed_where_no_other_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local ports and descriptors may run out together."""
    made: list[SocketType] = []

    def start_dial(_endpoint: Endpoint, local_port: int = 0) -> tuple[SocketType, int]:
        if local_port:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(SocketType())
        return made[-1], errno.EADDRNOTAVAIL

    monkeypatch.setattr(node_sockets, "start_dial", start_dial)
    ports = SourcePorts(time.monotonic)
    monkeypatch.setattr(ports, "take", lambda _: 4000)
    sockets = NodeSockets(ListenerAddresses(), ports, time.monotonic)
    with pytest.raises(OSError, match="Too many open files"):
        sockets.connect(ENDPOINT)
    assert [each.fileno() for each in made] == [-1]


def test_no_port_is_searched_where_no_address_of_this_node_reaches_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """connect(2) says the same as where all ports are in use."""
    dials: list[int] = []

    def start_dial(_endpoint: Endpoint, local_port: int = 0) -> tuple[SocketType, int]:
        dials.append(local_port)
        return SocketType(), errno.EADDRNOTAVAIL

    monkeypatch.setattr(node_sockets, "start_dial", start_dial)
    sockets = NodeSockets(ListenerAddresses(), SourcePorts(time.monotonic), time.monotonic)
    for reaches, count in ((False, 1), (True, 33)):
        monkeypatch.setattr(node_sockets, "has_source_address", lambda _, reaches=reaches: reaches)
        dials.clear()
        backend, error = sockets.connect(ENDPOINT)
        assert backend is not None
        backend.close()
        assert (error, len(dials)) == (errno.EADDRNOTAVAIL, count)
