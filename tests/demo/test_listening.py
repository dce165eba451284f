"""Which ports programs listen at, asked of the real kernel."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from userproxy.demo.hosts import Host
from userproxy.demo.listening import _take


@pytest.fixture
def host(root: None) -> Iterator[Host]:
    with Host("one") as host:
        yield host


def test_listening_ports_are_those_of_the_host(host: Host) -> None:
    assert host.listening_ports() == set()
    with host.listen(8080), host.socket(socket.AF_INET6) as six, Host("two") as other:
        six.bind(("::1", 9090))
        six.listen()
        assert host.listening_ports() == {8080, 9090}
        assert other.listening_ports() == set()
        assert host.listening_ports("udp") == set()


def test_udp_ports_that_take_datagrams_of_anybody_are_listed(host: Host) -> None:
    with host.udp_socket(source=("127.0.0.1", 5353)), host.udp_socket(("127.0.0.1", 5353)):
        assert host.listening_ports("udp") == {5353}


def test_connections_do_not_count_and_thousands_of_listeners_do(host: Host) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(host.listen()) for _ in range(1500)]
        for server in servers[:50]:
            stack.enter_context(host.connect(server.getsockname()))
        assert host.listening_ports() == {server.getsockname()[1] for server in servers}


@pytest.mark.parametrize(("code", "is_raised"), [(2, False), (1, True)], ids=["no such protocol", "refused"])
def test_a_kernel_without_a_protocol_has_no_ports_and_a_refusal_is_raised(code: int, is_raised: bool) -> None:
    refusal = struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -code)
    if is_raised:
        with pytest.raises(PermissionError):
            _take(refusal, set())
    else:
        assert not _take(refusal, set())
