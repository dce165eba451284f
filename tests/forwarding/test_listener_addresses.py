"""Which endpoints are ourselves, as the kernel of a host of its own sees it."""

from collections.abc import Iterator

import pytest

from userproxy.demo.hosts import Host
from userproxy.forwarding.listener_addresses import ListenerAddresses
from userproxy.model import Endpoint, IPFamily

PORT = 40_000


@pytest.fixture
def host(root: None) -> Iterator[Host]:
    with Host("node") as host:
        host.ip_batch(
            [
                "link add eth0 type veth peer name eth1",
                "addr add 10.0.0.1/24 dev eth0",
                "addr add fd00::1/64 dev eth0 nodad",
                "link set eth0 up",
                "link set eth1 up",
                "route add local 10.96.0.0/16 dev lo",
            ]
        )
        yield host


@pytest.mark.parametrize(
    ("bound", "endpoint", "is_own"),
    [
        ("0.0.0.0", "10.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.2", True),
        ("0.0.0.0", "0.0.0.0", True),
        ("0.0.0.0", "10.96.0.10", True),
        ("0.0.0.0", "::ffff:10.0.0.1", True),
        ("0.0.0.0", "10.0.0.2", False),
        ("0.0.0.0", "192.0.2.1", False),  # without a route
        ("0.0.0.0", "fd00::1", False),  # IPv4 alone listens
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.2", False),  # another program of this node may listen there
        ("127.0.0.1", "10.0.0.1", False),
        ("::", "fd00::1", True),
        ("::", "::1", True),
        ("::", "fd00::2", False),
        ("::", "10.0.0.1", False),
        ("::1", "::1", True),
        ("::1", "fd00::1", False),
    ],
)
def test_what_a_listener_would_accept(host: Host, bound: str, endpoint: str, *, is_own: bool) -> None:
    own = ListenerAddresses()
    own.add(IPFamily.IPV6 if ":" in bound else IPFamily.IPV4, bound, PORT)
    assert host.inside(own.__contains__, Endpoint(endpoint, PORT)) is is_own
    assert not host.inside(own.__contains__, Endpoint(endpoint, PORT + 1))
    assert [port in own.ports for port in (PORT, PORT + 1)] == [True, False]


def test_a_port_is_forgotten_with_its_last_listener(host: Host) -> None:
    own, endpoint = ListenerAddresses(), Endpoint("127.0.0.1", PORT)
    own.add(IPFamily.IPV4, "0.0.0.0", PORT)
    own.add(IPFamily.IPV6, "::", PORT)
    own.discard(IPFamily.IPV6, PORT)
    assert host.inside(own.__contains__, endpoint)
    own.discard(IPFamily.IPV4, PORT)
    assert not host.inside(own.__contains__, endpoint)
