"""What waits in sockets is taken out in order, and put elsewhere as it came."""

import socket
from contextlib import closing

import pytest

from userproxy.addresses import family_of
from userproxy.forwarding.udp.datagrams import BATCH, Inbox
from userproxy.forwarding.udp.groups.waiting import waiting
from userproxy.forwarding.udp.sockets import DatagramSocket


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 3 * BATCH])
def test_all_of_it_is_taken_out_in_order(host: str, count: int) -> None:
    inbox = Inbox(family_of(host))
    with closing(DatagramSocket.open(host, 0)) as sock, socket.socket(sock.family, socket.SOCK_DGRAM) as client:
        client.connect((host, sock.port))
        for number in range(count):
            client.send(b"%d" % number)
        found = list(waiting([sock, sock], inbox))
        assert [each.payload for each in found] == [b"%d" % number for number in range(count)]
        assert {each.client for each in found} <= {client.getsockname()[:2]}
        for each in found:
            inbox.put(each.addresses, each.payload)
            assert inbox.address(0) == each.client
            assert inbox.datagram(0)[1] == each.payload
