"""What becomes of a client's connections: which Pods answer, or how they fail."""

import socket
import struct
from collections.abc import Collection, Mapping
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import msgspec

from userproxy.demo.closing import Closing
from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import Answer, fetch

REFUSED = "refused"
DROPPED = "dropped"
ACCEPTED = "accepted"

SILENCE = 1.5
"""Seconds after which a connection or a datagram counts as dropped."""


def try_to_connect(host: Host, address: Address, seconds: float = SILENCE) -> str:
    """Whether a TCP connection is REFUSED or ACCEPTED within this time; DROPPED if neither is."""
    try:
        with closing(host.connect(address, seconds)):
            return ACCEPTED
    except ConnectionRefusedError:
        return REFUSED
    except TimeoutError:
        return DROPPED


def refuses_the_first_syn(host: Host, address: Address) -> bool:
    """Whether a TCP connection is refused before the client has to send its SYN again, whatever time that takes."""
    with closing(host.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)) as sock:
        sock.settimeout(SILENCE)
        try:
            sock.connect(address)
        except ConnectionRefusedError:
            information = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            (sent_again,) = struct.unpack_from("I", information, 100)  # linux/tcp.h: tcpi_total_retrans
            return not sent_again
        except TimeoutError:
            return False
        return False


def who_answers(host: Host, address: Address, expected: Collection[str], most: int = 60) -> set[str]:
    """The Pods that answer, asked over and over until all that are `expected` have, or `most` times."""
    seen: set[str] = set()
    least = 2 * len(expected) + 2  # so that a Pod that should not answer has its turn, too
    for number in range(most):
        if number >= least and seen >= set(expected):
            break
        seen.add(fetch(host, address).pod)
    return seen


def refuses_datagrams(host: Host, address: Address) -> bool:
    """Whether a datagram from a connected socket is answered by an ICMP message at once, and by nothing else."""
    with host.udp_socket(address, SILENCE) as sock:
        try:
            sock.send(b"?")
        except PermissionError:
            pass  # netfilter's verdict reaches a sender on the node itself directly; the message comes all the same
        except ConnectionRefusedError:
            return True
        try:
            sock.recv(1 << 16)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
        return False


class Reply(msgspec.Struct, frozen=True):
    """An HTTP server's reply, whatever its status; ``body`` is its JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


def get(host: Host, address: Address, path: str = "/") -> Reply:
    """Send a GET request. Raises OSError where nobody listens."""
    with closing(HTTPConnection(address[0], address[1])) as connection:
        connection.sock = host.connect(address)
        connection.request("GET", path)
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), msgspec.json.decode(response.read()))


class KeptConnection(Closing):
    """One connection to a Pod over which it is asked time and again. Use as a context manager."""

    def __init__(self, host: Host, address: Address) -> None:
        self._connection = HTTPConnection(address[0], address[1])
        self._connection.auto_open = 0  # once it has ended there is no other
        self._connection.sock = host.connect(address)

    def ask(self) -> Answer:
        """Raises OSError where the connection was reset, HTTPException where it was closed."""
        self.send()
        return self.receive()

    def send(self) -> None:
        """Ask, for :meth:`receive`."""
        self._connection.request("GET", "/")

    def receive(self) -> Answer:
        """What it answers."""
        return msgspec.json.decode(self._connection.getresponse().read(), type=Answer)

    def close(self) -> None:
        self._connection.close()
