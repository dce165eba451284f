"""The listening socket's verdicts, both families, and whom a client meant to reach."""

import errno
import itertools
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Self

import pytest

from tests.forwarding.conftest import LOOPBACK, LOOPBACK_6
from userproxy.addresses import socket_family
from userproxy.demo.hosts import Host
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.tcp.sockets import (
    ListeningSocket,
    dialled_portal,
    has_connection,
    has_source_address,
    ip_and_port,
    keep_alive,
    quiet_seconds,
    reset_on_close,
    start_dial,
    unacknowledged,
)
from userproxy.model import Endpoint, Verdict

SERVE, REJECT, DROP = Verdict.SERVE, Verdict.REJECT, Verdict.DROP
both_families = pytest.mark.parametrize("host", [LOOPBACK, LOOPBACK_6])


def free_port(host: str) -> int:
    with socket.socket(socket_family(host)) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
    return port


@contextmanager
def listening(host: str, port: int = 0, verdict: Verdict = SERVE) -> Iterator[ListeningSocket]:
    sock = ListeningSocket.open(host, port or free_port(host))
    try:
        sock.set_verdict(verdict)
        yield sock
    finally:
        sock.close()


class Client:
    """Dials without waiting for the answer."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.socket(socket_family(host))
        self.socket.setblocking(False)
        self.error = self.socket.connect_ex((host, port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def answer(self, seconds: float = 10.0) -> Verdict:
        """What became of it, within so many seconds; DROP if there was no answer."""
        ready = select.select([], [self.socket], [], seconds)[1]
        if not ready:
            return DROP
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert error in {0, errno.ECONNREFUSED}
        return REJECT if error else SERVE


def accept(sock: ListeningSocket) -> socket.SocketType:
    assert select.select([sock], [], [], 10)[0]
    return sock.accept_client()[0]


def verdict_of(host: str, port: int) -> Verdict:
    """What a new client experiences. Loopback answers in microseconds, where it answers at all."""
    with Client(host, port) as client:
        return client.answer(0.1)


@both_families
def test_the_first_verdict_is_reject(host: str) -> None:
    with listening(host, verdict=REJECT) as sock:
        assert verdict_of(host, sock.port) is REJECT


@both_families
@pytest.mark.parametrize("order", list(itertools.permutations([SERVE, REJECT, DROP, SERVE, DROP, REJECT], 4))[::15])
def test_verdicts_follow_each_other_in_any_order_on_one_port(host: str, order: tuple[Verdict, ...]) -> None:
    with listening(host, verdict=SERVE) as sock, Client(host, sock.port) as old, ExitStack() as stack:
        port, server = sock.port, accept(sock)
        stack.callback(server.close)
        for verdict in (*order, SERVE):
            sock.set_verdict(verdict)
            with Client(host, port) as client:
                if verdict is DROP:
                    assert client.answer(0.05) is DROP
                else:
                    assert client.answer() is verdict
                if verdict is SERVE:
                    accept(sock).close()
            old.socket.sendall(b"x")
            assert select.select([server], [], [], 10)[0]
            assert server.recv(10) == b"x"
        assert sock.port == port


@both_families
def test_a_client_that_waited_in_silence_is_served_when_the_verdict_allows_it(host: str) -> None:
    with listening(host, verdict=DROP) as sock, Client(host, sock.port) as client:
        assert client.answer(0.05) is DROP
        sock.set_verdict(SERVE)
        assert client.answer() is SERVE  # TCP's second SYN comes after a second


@both_families
def test_a_client_that_was_accepted_after_a_drop_hears_and_is_heard(host: str) -> None:
    with listening(host, verdict=DROP) as sock:
        sock.set_verdict(SERVE)
        with Client(host, sock.port) as client:
            assert client.answer() is SERVE
            server = accept(sock)
            client.socket.sendall(b"x")
            assert select.select([server], [], [], 10)[0]
            assert server.recv(10) == b"x"
            server.close()


@both_families
def test_nobody_can_take_the_port_while_clients_are_refused(host: str) -> None:
    with listening(host, verdict=REJECT) as sock, socket.socket(sock.family) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="already in use"):
            thief.bind((host, sock.port))
        sock.set_verdict(SERVE)
        assert verdict_of(host, sock.port) is SERVE


@both_families
@pytest.mark.parametrize("verdict", Verdict)
def test_a_socket_is_opened_in_its_verdict_and_nobody_else_can_listen_there(host: str, verdict: Verdict) -> None:
    with closing(ListeningSocket.open(host, free_port(host), verdict)) as sock, socket.socket(sock.family) as thief:
        assert verdict_of(host, sock.port) is verdict
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="already in use"):
            thief.bind((host, sock.port))
        for each in (REJECT, DROP, SERVE):
            sock.set_verdict(each)
            assert verdict_of(host, sock.port) is each


@both_families
@pytest.mark.parametrize("verdict", [SERVE, REJECT])
def test_a_socket_that_is_taken_over_goes_on_as_it_was(host: str, verdict: Verdict) -> None:
    with listening(host, verdict=verdict) as opened:
        port = opened.port
        with closing(ListeningSocket(opened.detach())) as sock:
            assert (sock.port, sock.listening) == (port, verdict is SERVE)
            for each in (verdict, DROP, REJECT, SERVE):
                sock.set_verdict(each)
                assert verdict_of(host, port) is each
            client, address = sock.accept_client()
            client.close()
            assert address[0] == host


@both_families
def test_a_port_is_found_again_while_old_connections_linger_on_it(host: str) -> None:
    with ExitStack() as stack:
        with listening(host) as sock:
            client = stack.enter_context(Client(host, sock.port))
            server = accept(sock)
            stack.callback(server.close)
            port = sock.port
        with listening(host, port) as sock:
            assert verdict_of(host, port) is SERVE
        assert client.answer() is SERVE


@both_families
def test_a_taken_port_says_so(host: str) -> None:
    with listening(host, verdict=REJECT) as sock:
        where = rf"\[{host}\]" if ":" in host else host.replace(".", r"\.")
        with pytest.raises(PortUnavailableError, match=rf"^cannot listen on {where}:{sock.port}: Address already"):
            ListeningSocket.open(host, sock.port)


def test_both_families_may_have_the_same_port_and_keep_to_their_own() -> None:
    with listening("::") as six, listening("0.0.0.0", six.port) as four:
        for sock, host in ((six, LOOPBACK_6), (four, LOOPBACK)):
            with Client(host, six.port) as client:
                assert client.answer() is SERVE
                assert select.select([sock], [], [], 10)[0]
                accepted, address = sock.accept_client()
                assert (address[0], accepted.family) == (host, socket_family(host))
                accepted.close()


def test_a_kernel_without_descriptors_makes_a_port_unavailable() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(PortUnavailableError, match="Too many open files"):
            ListeningSocket.open(LOOPBACK, 40_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@both_families
def test_both_legs_send_at_once_and_notice_a_peer_that_is_gone(host: str) -> None:
    with listening(host) as sock:
        backend, error = start_dial(Endpoint(host, sock.port))
        assert error in {0, errno.EINPROGRESS}
        client = accept(sock)
        assert not backend.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        keep_alive(backend)
        for leg in (client, backend):
            assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert leg.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
            assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 15
            assert leg.gettimeout() == 0
            leg.close()


def test_the_port_of_a_dial_can_be_had_again() -> None:
    with listening(LOOPBACK) as sock:
        backend, _ = start_dial(Endpoint(LOOPBACK, sock.port))
        with closing(backend):
            assert backend.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("iptables", "everywhere", "loopback", "portal"),
    [("iptables", "0.0.0.0", LOOPBACK, "10.96.0.10"), ("ip6tables", "::", LOOPBACK_6, "fd00:96::10")],
)
def test_a_client_of_a_portal_is_told_from_one_of_the_port_itself(
    iptables: str, everywhere: str, loopback: str, portal: str
) -> None:
    with Host("node") as node, ExitStack() as stack:
        node.ip_batch([f"addr add {portal} dev lo"])
        sock = node.inside(ListeningSocket.open, everywhere, 40_000)
        stack.callback(sock.close)
        sock.set_verdict(SERVE)
        to_portal = ["-p", "tcp", "-d", portal, "--dport", "80", "-j", "REDIRECT", "--to-ports", str(sock.port)]
        node.run([iptables, "-t", "nat", "-A", "OUTPUT", *to_portal])
        for address, direct in (((portal, 80), False), ((loopback, sock.port), True), ((portal, sock.port), True)):
            with node.connect(address):
                client = accept(sock)
                stack.callback(client.close)
                assert (dialled_portal(client, sock.port) is None) is direct


@pytest.mark.usefixtures("root")
def test_a_portal_with_the_listeners_own_port_is_none_the_less_a_portal() -> None:
    with Host("node") as node, ExitStack() as stack:
        node.ip_batch(["addr add 10.96.0.10 dev lo"])
        sock = node.inside(ListeningSocket.open, "0.0.0.0", 0)
        stack.callback(sock.close)
        sock.set_verdict(SERVE)
        port = str(sock.port)
        to_portal = ["-p", "tcp", "-d", "10.96.0.10", "--dport", port, "-j", "REDIRECT", "--to-ports", port]
        node.run(["iptables", "-t", "nat", "-A", "OUTPUT", *to_portal])
        with node.connect(("10.96.0.10", sock.port)):
            client = accept(sock)
            stack.callback(client.close)
            portal = dialled_portal(client, sock.port)
            assert portal is not None
            assert ip_and_port(portal) == ("10.96.0.10", sock.port)


@pytest.mark.usefixtures("root")
def test_without_connection_tracking_every_client_is_direct() -> None:
    with Host("node") as node, ExitStack() as stack:
        sock = node.inside(ListeningSocket.open, "::", 40_000)
        stack.callback(sock.close)
        sock.set_verdict(SERVE)
        with node.connect((LOOPBACK_6, sock.port)):
            client = accept(sock)
            stack.callback(client.close)
            assert dialled_portal(client, sock.port) is None


@contextmanager
def connected(host: str) -> Iterator[tuple[socket.SocketType, socket.SocketType]]:
    """Both ends of a connection."""
    with listening(host) as sock, Client(host, sock.port) as client:
        assert client.answer() is SERVE
        peer, _ = sock.accept_client()
        with closing(peer):
            yield client.socket, peer


@both_families
def test_a_dial_may_be_bound_to_a_port(host: str) -> None:
    with listening(host) as sock:
        for _ in range(50):  # a port that is free on this address may have been left in TIME_WAIT on another one
            port = free_port(host)
            backend, error = start_dial(Endpoint(host, sock.port), port)
            if error != errno.EADDRNOTAVAIL:
                break
            backend.close()
        with closing(backend):
            assert error in {0, errno.EINPROGRESS}
            assert backend.getsockname()[1] == port
            assert not backend.getblocking()
            second, taken = start_dial(Endpoint(host, sock.port), port)
            second.close()
            assert taken == errno.EADDRNOTAVAIL, "it is in use towards this very endpoint"


@both_families
def test_somebody_who_waits_to_be_accepted_is_seen_without_being_accepted(host: str) -> None:
    with listening(host) as sock:
        assert not has_connection(sock)
        with Client(host, sock.port) as client:
            assert client.answer() is SERVE
            assert has_connection(sock)
            sock.accept_client()[0].close()
            assert not has_connection(sock)


@both_families
def test_a_socket_that_is_to_reset_does_so_and_drops_what_is_unsent(host: str) -> None:
    with connected(host) as (client, peer):
        reset_on_close(peer)
        peer.close()
        select.select([client], [], [], 10)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@both_families
def test_what_the_peer_has_not_acknowledged_is_counted(host: str) -> None:
    with connected(host) as (client, peer):
        assert unacknowledged(client) == 0
        while True:
            try:
                client.send(bytes(65_536))
            except BlockingIOError:
                break
        held = unacknowledged(client)
        assert held > 65_536
        deadline = time.monotonic() + 10
        while unacknowledged(client):
            assert time.monotonic() < deadline
            select.select([peer], [], [], 1)
            peer.recv(1 << 20)


@both_families
def test_how_long_a_connection_has_been_quiet_in_each_direction(host: str) -> None:
    with connected(host) as (client, peer):
        time.sleep(0.3)  # what is measured here is time
        client.send(b"x")
        select.select([peer], [], [], 10)
        heard, told = quiet_seconds(client)
        assert 0.25 <= heard < 10
        assert told < heard - 0.2
        heard, told = quiet_seconds(peer)
        assert 0.25 <= told < 10
        assert heard < told - 0.2


@pytest.mark.usefixtures("root")
def test_a_node_may_have_no_address_to_reach_an_endpoint_from() -> None:
    with Host("node") as host:
        host.ip_batch(["addr del ::1/128 dev lo", "route add 2001:db8::/64 dev lo"])
        assert not host.inside(has_source_address, Endpoint("2001:db8::1", 80))
        assert host.inside(has_source_address, Endpoint("127.0.0.1", 80))
        assert host.inside(has_source_address, Endpoint("192.0.2.1", 80)), "without a route it is another error"
