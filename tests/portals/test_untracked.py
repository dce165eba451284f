"""Connections that began without connection tracking, with real ones in a network of their own."""

import socket

import pytest

from tests.portals.conftest import Network, shell
from userproxy.model import IPFamily
from userproxy.portals.local.routes import LocalRoutes
from userproxy.portals.untracked import track_connections

FREEBIND = 78
"""IPV6_FREEBIND, linux/in6.h."""


@pytest.mark.parametrize(("family", "portal"), [(IPFamily.IPV4, "10.96.0.10"), (IPFamily.IPV6, "fd00:10:96::10")])
def test_connections_at_local_portals_are_not_taken_for_new_ones_once_rules_stand(
    network: Network, family: IPFamily, portal: str
) -> None:
    command = "ip6tables-nft" if family is IPFamily.IPV6 else "iptables-nft"

    def scenario() -> tuple[int, int, bytes]:
        LocalRoutes(family).add([portal])
        with socket.socket(socket.AF_INET6 if family is IPFamily.IPV6 else socket.AF_INET) as listening:
            if family is IPFamily.IPV6:
                listening.setsockopt(socket.IPPROTO_IPV6, FREEBIND, 1)
            listening.bind((portal, 0))
            listening.listen()
            with socket.create_connection(listening.getsockname()[:2], 5) as client, listening.accept()[0] as served:
                served.settimeout(5)
                made, again = track_connections(family), track_connections(family)
                shell(
                    command, "-t", "nat", "-A", "OUTPUT", "-d", portal, "-p", "tcp", "-j", "REDIRECT", "--to-ports", "9"
                )
                client.send(b"on we go")
                served.send(served.recv(100))
                return made, again, client.recv(100)

    assert network.run(scenario) == (1, 0, b"on we go")


def test_where_no_route_makes_portals_local_nothing_is_tracked(network: Network) -> None:
    def scenario() -> int:
        listening = socket.create_server(("127.0.0.1", 0))
        with listening, socket.create_connection(listening.getsockname(), 5), listening.accept()[0]:
            return track_connections(IPFamily.IPV4)

    assert network.run(scenario) == 0
