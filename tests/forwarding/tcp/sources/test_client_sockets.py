"""Source ports of connections from clients' addresses: in turn, and others than those of other processes."""

import errno
import socket

import pytest

from userproxy.forwarding.client_addresses import SourceChoice
from userproxy.forwarding.listener_addresses import ListenerAddresses
from userproxy.forwarding.tcp.sources import client_sockets
from userproxy.forwarding.tcp.sources.client_sockets import ClientSockets
from userproxy.model import PODS_PORTS, Endpoint
from userproxy.model.reports import SourceFallback

ENDPOINT = Endpoint("10.0.0.2", 80)
FROM_POD = SourceChoice("", own_ports_only=True)
CLIENT = "10.0.0.1"


class Kernel:
    """Refuses ports that are `taken`, and remembers which were tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: set[int] = set()
        self.tried: list[int] = []
        monkeypatch.setattr(client_sockets, "start_dial_from", self._dial)

    def _dial(self, _client: str, _endpoint: Endpoint, port: int) -> tuple[socket.socket, int]:
        self.tried.append(port)
        return socket.socket(), errno.EADDRINUSE if port in self.taken else errno.EINPROGRESS


def connect(sockets: ClientSockets) -> bool:
    """Whether a connection has begun."""
    made = sockets.connect(CLIENT, ENDPOINT, FROM_POD)
    if isinstance(made, SourceFallback):
        return False
    made.close()
    return True


def at_noon() -> float:
    """A clock that shows whole milliseconds, as uvloop's does."""
    return 61_000.767


def test_ports_come_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, sockets = Kernel(monkeypatch), ClientSockets(ListenerAddresses(), at_noon)
    count = PODS_PORTS[1] - PODS_PORTS[0] + 1
    assert all(connect(sockets) for _ in range(count))
    assert set(kernel.tried) == set(range(PODS_PORTS[0], PODS_PORTS[1] + 1))


def test_processes_that_start_at_the_same_time_begin_with_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    for _ in range(100):
        connect(ClientSockets(ListenerAddresses(), at_noon))
    assert len(set(kernel.tried)) > 50


def test_a_client_that_has_many_ports_in_a_row_is_out_of_them_one_try_later(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, sockets = Kernel(monkeypatch), ClientSockets(ListenerAddresses(), at_noon)
    assert connect(sockets)
    first = kernel.tried[0]
    count = PODS_PORTS[1] - PODS_PORTS[0] + 1
    kernel.taken = {PODS_PORTS[0] + (first + number - PODS_PORTS[0]) % count for number in range(500)}
    assert connect(sockets)
    assert len(kernel.tried) == 3
    assert connect(sockets)
    assert kernel.tried[-1] == kernel.tried[-2] + 1 or kernel.tried[-1] == PODS_PORTS[0]


def test_where_none_is_left_the_nodes_address_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, sockets = Kernel(monkeypatch), ClientSockets(ListenerAddresses(), at_noon)
    kernel.taken = set(range(PODS_PORTS[0], PODS_PORTS[1] + 1))
    assert not connect(sockets)
    assert len(kernel.tried) == len(set(kernel.tried)) == 8
