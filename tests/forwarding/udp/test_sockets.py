"""A port that takes datagrams, refuses them, and is nobody else's meanwhile."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.forwarding.udp.bench import received_batch
from tests.forwarding.udp.conftest import Ends
from userproxy.addresses import IPFamily
from userproxy.demo.hosts import Host
from userproxy.demo.waiting import eventually
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.udp import sockets
from userproxy.forwarding.udp.datagrams import Inbox
from userproxy.forwarding.udp.sockets import DatagramSocket, connect_from, dropped
from userproxy.model import OTHERS_PORTS, PODS_PORTS, Endpoint


def test_refusing_makes_the_kernel_answer_and_admitting_ends_it(ends: Ends) -> None:
    family, listener, client = ends
    inbox = Inbox(family)
    port = listener.port
    for _ in range(2):
        listener.refuse()
        client.send(b"refused")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
        listener.admit()
        assert listener.port == port
        client.send(b"served")
        assert received_batch(listener, inbox) == [b"served"]
        assert inbox.memory[inbox.clients[0]]


def test_copies_that_a_program_being_started_has_are_in_nobodys_way(ends: Ends) -> None:
    _, listener, _ = ends
    copies: list[int] = []
    try:
        for _ in range(3):
            listener.refuse()
            held = listener._holder  # between fork(2) and execve(2) there is a copy of everything
            assert held is not None
            copies += [os.dup(held.fileno()), os.dup(listener.fileno())]
            listener.admit()
    finally:
        for copy in copies:
            os.close(copy)


@pytest.mark.parametrize("reuse", [0, 1])
def test_a_port_that_refuses_is_nobody_elses(ends: Ends, reuse: int) -> None:
    _, listener, client = ends
    port = listener.port
    listener.refuse()
    with socket.socket(client.family, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        for address in (listener.host, "::1" if listener.host == "::" else "127.0.0.2"):
            with pytest.raises(OSError, match="in use"):
                thief.bind((address, port))
        listener.admit()
        with pytest.raises(OSError, match="in use"):
            thief.bind((listener.host, port))
        listener.refuse()
        listener.close()
        thief.bind((listener.host, port))


def test_a_taken_port_cannot_be_had(ends: Ends) -> None:
    _, listener, _ = ends
    with pytest.raises(
        PortUnavailableError, match=rf"^cannot listen on UDP \S+:{listener.port}: Address already in use"
    ):
        DatagramSocket.open(listener.host, listener.port)


def test_a_port_of_the_kernels_choice_is_shared_with_nobody(ends: Ends) -> None:
    _, listener, client = ends
    with socket.socket(client.family, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind((listener.host, listener.port))


def test_both_families_can_have_one_port() -> None:
    with closing(DatagramSocket.open("0.0.0.0", 0)) as four, closing(DatagramSocket.open("::", four.port)) as six:
        assert four.port == six.port


def test_what_the_kernel_drops_is_counted() -> None:
    with closing(DatagramSocket.open("127.0.0.1", 0)) as listener, socket.socket(type=socket.SOCK_DGRAM) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert dropped(listener) == 0
        for _ in range(100):
            client.sendto(b"x" * 1000, ("127.0.0.1", listener.port))
        inbox = Inbox(IPFamily.IPV4)
        assert dropped(listener) == 100 - len(received_batch(listener, inbox))
        assert dropped(listener) > 0


def test_a_listener_has_room_for_a_thousand_waiting_datagrams_where_the_kernel_grants_it() -> None:
    with closing(DatagramSocket.open("127.0.0.1", 0)) as listener, open("/proc/sys/net/core/rmem_max") as file:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * min(1 << 20, int(file.read()))


def test_a_socket_that_is_taken_over_goes_on_as_it_was(ends: Ends) -> None:
    family, opened, client = ends
    host, port = opened.host, opened.port
    client.send(b"before")
    with closing(DatagramSocket(opened.detach())) as listener:
        assert (listener.host, listener.port, listener.family_name) == (host, port, family)
        client.send(b"after")
        inbox = Inbox(family)
        assert received_batch(listener, inbox) == [b"before", b"after"]
        with pytest.raises(BlockingIOError):
            listener.recv(1)
        listener.refuse()
        listener.admit()
        client.send(b"again")
        assert received_batch(listener, inbox) == [b"again"]
        assert inbox.address(0) == client.getsockname()[:2]


@pytest.fixture
def node(root: None) -> Iterator[Host]:
    """A host with an address of either family, where those of clients are nobody's."""
    with Host("node") as node:
        node.ip_batch(["addr add 10.0.0.1/32 dev lo", "addr add fd00::1/128 dev lo nodad"])
        eventually(lambda: reaches_itself(node), 5)  # the kernel takes its time with a new IPv6 address
        yield node


def reaches_itself(node: Host) -> bool:
    with node.udp_socket(source=("fd00::1", 5353), timeout=0.1) as server, node.udp_socket(("fd00::1", 5353)) as client:
        client.send(b"")
        return bool(server.recvfrom(1)[1])


CLIENTS = [("10.9.9.9", "10.0.0.1"), ("fd00:9::9", "fd00::1")]


@pytest.mark.parametrize(("is_pod_here", "ports"), [(True, PODS_PORTS), (False, OTHERS_PORTS)])
@pytest.mark.parametrize(("client", "server"), CLIENTS)
def test_a_flow_comes_from_the_clients_address_and_a_port_that_no_client_has_itself(
    node: Host, client: str, server: str, ports: tuple[int, int], *, is_pod_here: bool
) -> None:
    """Another node may have flows of the same client to the same endpoint: it takes the others."""
    with node.udp_socket(source=(server, 53)) as backend:
        for _ in range(20):
            with closing(node.inside(connect_from, client, Endpoint(server, 53), is_pod_here=is_pod_here)) as sock:
                assert not sock.getblocking()
                assert sock.send(b"question") == 8
                data, sender = backend.recvfrom(100)
            assert (data, sender[0]) == (b"question", client)
            assert ports[0] <= sender[1] <= ports[1]


def test_for_a_client_from_elsewhere_the_kernel_chooses_in_the_end(node: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "OTHERS_PORTS", (64_000, 64_001))
    monkeypatch.setattr(sockets, "_PORTS_TRIED", 2)
    with ExitStack() as stack:
        opened = [node.inside(connect_from, "10.9.9.9", Endpoint("10.0.0.1", 53), is_pod_here=False) for _ in range(3)]
        ports = sorted(stack.enter_context(closing(sock)).getsockname()[1] for sock in opened)
        assert ports[1:] == [64_000, 64_001]


@pytest.mark.parametrize(("client", "server"), CLIENTS)
def test_one_clients_ports_come_to_an_end_and_anothers_do_not(
    node: Host, client: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "PODS_PORTS", (61_000, 61_003))
    monkeypatch.setattr(sockets, "_PORTS_TRIED", 4)
    with ExitStack() as stack:
        flows = [
            stack.enter_context(closing(node.inside(connect_from, client, Endpoint(server, 53), is_pod_here=True)))
            for _ in range(4)
        ]
        assert {flow.getsockname()[1] for flow in flows} == {61_000, 61_001, 61_002, 61_003}
        with pytest.raises(OSError, match="Address already in use"):
            node.inside(connect_from, client, Endpoint(server, 54), is_pod_here=True)
        stack.enter_context(
            closing(node.inside(connect_from, f"{client[:-1]}8", Endpoint(server, 53), is_pod_here=True))
        )


@pytest.mark.parametrize(
    ("client", "reason"),
    [("fe80::9", "Invalid argument"), ("ff02::1", "Invalid argument"), ("10.9.9.9", "Network is unreachable")],
)
def test_an_address_that_cannot_be_a_clients_is_refused_and_leaves_nothing_open(
    node: Host, client: str, reason: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=reason):
        node.inside(connect_from, client, Endpoint("fd00::1" if ":" in client else "192.0.2.1", 53), is_pod_here=True)
    assert len(os.listdir("/proc/self/fd")) == before
