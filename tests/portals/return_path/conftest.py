"""A node with Pods on links of their own, or on one bridge, in network namespaces; and sockets in all of them."""

import socket
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import count

import pytest
from msgspec import Struct

from tests.portals.conftest import Network
from userproxy.addresses import IPFamily
from userproxy.model import OWN_PORTS, Protocol

KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
_TRANSPARENT = {IPFamily.IPV4: (socket.IPPROTO_IP, 19), IPFamily.IPV6: (socket.IPPROTO_IPV6, 75)}  # linux/in.h, in6.h
_ports = count(OWN_PORTS[0])
_SECONDS = 3.0

CLIENT = {IPFamily.IPV4: "10.1.0.2", IPFamily.IPV6: "fd01::2"}
BACKEND = {IPFamily.IPV4: "10.1.0.3", IPFamily.IPV6: "fd01::3"}
GATEWAY = {IPFamily.IPV4: "10.1.0.1", IPFamily.IPV6: "fd01::1"}


class Pods(Struct):
    """Two Pods of a node. `backend` is the network of the one that answers."""

    node: Network
    client: Network
    backend: Network

    def seen(self, family: IPFamily, protocol: Protocol, size: int = 1) -> str | None:
        """The address that the backend sees when the node dials it from the client's; None if no answer comes back.

        The answer has `size` bytes.
        """
        kind, address = KINDS[protocol], BACKEND[family]
        with (
            closing(self.backend.run(partial(bound, kind, address))) as serving,
            closing(self.node.run(partial(transparent, family, kind, CLIENT[family]))) as dialling,
        ):
            try:
                dialling.connect(serving.getsockname()[:2])
                return _answered(dialling, serving, protocol, size)
            except TimeoutError:
                return None

    def refused(self, family: IPFamily) -> bool:
        """Whether a datagram to a closed port of the backend, from the client's address, is heard to be refused."""
        with closing(self.node.run(partial(transparent, family, socket.SOCK_DGRAM, CLIENT[family]))) as asking:
            asking.connect((BACKEND[family], 9))
            asking.send(b"x")
            try:
                return not asking.recv(1)
            except ConnectionRefusedError:
                return True
            except TimeoutError:
                return False


def _answered(dialling: socket.socket, serving: socket.socket, protocol: Protocol, size: int) -> str:
    if protocol is Protocol.UDP:
        dialling.send(b"x")
        _, peer = serving.recvfrom(1)
        serving.sendto(bytes(size), peer)
        assert len(dialling.recv(1 << 16)) == size
    else:
        accepted, peer = serving.accept()
        with accepted:
            accepted.sendall(bytes(size))
            accepted.shutdown(socket.SHUT_WR)
            with dialling.makefile("rb") as answer:
                assert len(answer.read()) == size
    return str(peer[0])


def bound(kind: socket.SocketKind, address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.settimeout(_SECONDS)
    made.bind((address, 0))
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def transparent(family: IPFamily, kind: socket.SocketKind, address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if family is IPFamily.IPV6 else socket.AF_INET, kind)
    made.settimeout(_SECONDS)
    made.setsockopt(*_TRANSPARENT[family], 1)
    made.bind((address, next(_ports)))
    return made


def ip(network: Network, *lines: str) -> None:
    """Run ``ip`` commands, one a line without the word ``ip``."""
    network.shell("ip", "-batch", "-", text="".join(f"{line}\n" for line in lines))


@pytest.fixture
def client_pod() -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


def _attach(node: Network, pod: Network, name: str) -> None:
    ip(node, f"link add {name} type veth peer name eth0 netns {pod.thread_id}", f"link set {name} up")


@pytest.fixture
def routed(network: Network, pod: Network, client_pod: Network) -> Pods:
    """Pods with a link each and a route to each: Calico's, kindnet's, those of clouds."""
    for number, (each, addresses) in enumerate(((client_pod, CLIENT), (pod, BACKEND))):
        link = f"pod{number}"
        _attach(network, each, link)
        for family, gateway in ((IPFamily.IPV4, "169.254.1.1/32"), (IPFamily.IPV6, "fe80::1/64")):
            bits, address = (32 if family is IPFamily.IPV4 else 128), addresses[family]
            ip(network, f"address add {gateway} dev {link} nodad", f"route add {address} dev {link}")
            ip(each, f"address add {address}/{bits} dev eth0 nodad", "link set eth0 up")
            via = gateway.partition("/")[0]
            ip(each, f"route add default via {via} dev eth0 onlink")
    return Pods(network, client_pod, pod)


@pytest.fixture
def bridged(network: Network, pod: Network, client_pod: Network) -> Pods:
    """Pods on one bridge: flannel's, those of the CNI plug-in bridge."""
    ip(network, "link add cbr0 type bridge", "link set cbr0 up")
    for family, bits in ((IPFamily.IPV4, 24), (IPFamily.IPV6, 64)):
        ip(network, f"address add {GATEWAY[family]}/{bits} dev cbr0 nodad")
    for number, (each, addresses) in enumerate(((client_pod, CLIENT), (pod, BACKEND))):
        _attach(network, each, f"pod{number}")
        ip(network, f"link set pod{number} master cbr0")
        ip(each, "link set eth0 up")
        for family, bits in ((IPFamily.IPV4, 24), (IPFamily.IPV6, 64)):
            ip(each, f"address add {addresses[family]}/{bits} dev eth0 nodad")
            ip(each, f"route add default via {GATEWAY[family]}")
    return Pods(network, client_pod, pod)
