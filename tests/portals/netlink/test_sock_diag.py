"""What programs listen on, as the kernel tells it."""

import errno
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from subprocess import PIPE

import pytest

from tests.portals.conftest import Network
from userproxy.model import Endpoint, IPFamily, Protocol
from userproxy.portals.claims import PortClaims
from userproxy.portals.netlink.sock_diag import (
    Connection,
    connections,
    listened_on,
    user_of,
    user_of_connection,
    why_not,
)

PORT = 8080
LOOPBACK = {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}
TCP, UDP = Protocol.TCP, Protocol.UDP
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def program(address: str, kind: socket.SocketKind = STREAM, *, v6only: bool = False, port: int = PORT) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    if ":" in address:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    made.bind((address, port))
    if kind == STREAM:
        made.listen()
    return made


@pytest.fixture(autouse=True)
def _second_address(network: Network) -> None:
    network.shell("ip", "address", "add", "127.0.0.2/8", "dev", "lo")


def heard(network: Network, family: IPFamily, protocol: Protocol) -> bool:
    place = (LOOPBACK[family], protocol, PORT)
    return network.run(lambda: listened_on(family, [place])) == {place}


@pytest.mark.parametrize(
    ("address", "v6only", "four", "six"),
    [
        ("127.0.0.1", False, True, False),
        ("0.0.0.0", False, True, False),
        ("127.0.0.2", False, False, False),
        ("::1", False, False, True),
        ("::", False, True, True),
        ("::", True, False, True),
        ("::ffff:127.0.0.1", False, True, False),
    ],
)
@pytest.mark.parametrize(("protocol", "kind"), [(TCP, STREAM), (UDP, DATAGRAM)])
def test_who_gets_packets_of_an_address(
    network: Network,
    protocol: Protocol,
    kind: socket.SocketKind,
    address: str,
    v6only: bool,
    four: bool,
    six: bool,
) -> None:
    assert not heard(network, IPFamily.IPV4, protocol)
    with network.run(lambda: program(address, kind, v6only=v6only)):
        assert (heard(network, IPFamily.IPV4, protocol), heard(network, IPFamily.IPV6, protocol)) == (four, six)
        other = UDP if protocol is TCP else TCP
        assert not heard(network, IPFamily.IPV4, other)
    assert not heard(network, IPFamily.IPV4, protocol)


def test_a_connection_from_a_port_is_no_program_that_listens(network: Network) -> None:
    """A port of the ephemeral range is now and then somebody's source: a bind would fail, but nothing is taken away."""

    def scenario() -> frozenset[tuple[str, Protocol, int]]:
        with (
            program("127.0.0.1", port=9090),
            closing(socket.socket()) as client,
            closing(socket.socket(type=DATAGRAM)) as asker,
        ):
            client.bind(("127.0.0.1", PORT))
            client.connect(("127.0.0.1", 9090))
            asker.bind(("127.0.0.1", PORT))
            asker.connect(("127.0.0.1", 9090))
            return listened_on(IPFamily.IPV4, [("127.0.0.1", TCP, PORT), ("127.0.0.1", UDP, PORT)])

    assert network.run(scenario) == frozenset()


@pytest.mark.parametrize("count", [3, 40])
def test_few_and_many_ports_at_once(network: Network, count: int) -> None:
    with ExitStack() as stack:
        for number in range(0, count, 2):
            stack.enter_context(network.run(lambda: program("127.0.0.1", port=9000 + number)))  # noqa: B023 -- at once
        places = [("127.0.0.1", TCP, 9000 + number) for number in range(count)]
        assert network.run(lambda: listened_on(IPFamily.IPV4, places)) == set(places[::2])


def test_a_kernel_without_the_list_is_told_from_one_that_refuses() -> None:
    missing, refused = (why_not(OSError(code, os.strerror(code))) for code in (errno.ENOENT, errno.EPERM))
    assert missing.startswith(os.strerror(errno.ENOENT))
    assert "inet_diag" in missing
    assert refused == os.strerror(errno.EPERM)
    assert why_not(TimeoutError("timed out")) == "timed out"


@pytest.mark.parametrize("family", list(IPFamily))
def test_our_own_claims_are_no_other_program(network: Network, family: IPFamily) -> None:
    """The claim of a UDP node port looks like any other socket."""
    claims, others = PortClaims(family), PortClaims(family)
    place = (LOOPBACK[family], UDP, PORT)
    network.run(lambda: claims.claim("", UDP, PORT))

    async def asked(by: PortClaims) -> frozenset[tuple[str, Protocol, int]]:
        return await by.taken([place])

    assert network.run_loop(lambda: asked(claims)) == frozenset()
    assert network.run_loop(lambda: asked(others)) == {place}
    claims.close()


NOBODYS = """
import os, socket, sys
os.setuid(65534)
made = socket.socket(socket.AF_UNIX)
made.bind("\\0theirs")
made.listen()
print("listening", flush=True)
sys.stdin.read()
"""


def test_whose_an_abstract_unix_socket_is(network: Network) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", NOBODYS], stdin=PIPE, stdout=PIPE, text=True)

    assert network.run(lambda: user_of("theirs")) is None
    with network.run(start) as holding, closing(network.run(lambda: socket.socket(socket.AF_UNIX))) as connected:
        assert holding.stdout is not None
        assert holding.stdin is not None
        assert holding.stdout.readline() == "listening\n"
        assert network.run(lambda: user_of("theirs")) == 65534
        assert user_of("theirs") is None, "it is another network's"
        connected.connect("\0theirs")  # one more socket with this name, which does not listen
        assert network.run(lambda: user_of("theirs")) == 65534
        holding.stdin.close()


def test_connections_are_told_at_both_ends_and_listeners_are_not(network: Network) -> None:
    def connected() -> tuple[list[Connection], set[Connection], list[Connection], int, int]:
        with closing(program("127.0.0.2")) as listening, closing(program("::1")), closing(socket.socket()) as client:
            before = list(connections(IPFamily.IPV4))
            client.bind(("127.0.0.1", 0))
            client.connect(listening.getsockname())
            ports = client.getsockname()[1], listening.getsockname()[1]
            return before, set(connections(IPFamily.IPV4)), list(connections(IPFamily.IPV6)), *ports

    before, four, six, ours, theirs = network.run(connected)
    there = Connection("127.0.0.1", ours, "127.0.0.2", theirs)
    back = Connection("127.0.0.2", theirs, "127.0.0.1", ours)
    assert (before, four, six) == ([], {there, back}, [])


def test_whose_a_connection_is(network: Network) -> None:
    def scenario() -> tuple[int | None, int | None, int | None]:
        with program("127.0.0.1") as listening, socket.create_connection(("127.0.0.1", PORT)) as client:
            here = Endpoint(*client.getsockname())
            there = Endpoint(*listening.getsockname())
            accepted, _ = listening.accept()
            open_ends = user_of_connection(here, there)
            listener = user_of_connection(there, Endpoint("127.0.0.1", 1))
            client.close()
            nobodys = user_of_connection(here, there)
            accepted.close()
            return open_ends, listener, nobodys

    assert network.run(scenario) == (os.geteuid(), None, None)
