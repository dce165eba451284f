"""What several parts ask of sockets alike."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from socket import SocketType


def socket_family(ip: str) -> int:
    """AF_INET or AF_INET6, whichever a valid address or network is of."""
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


@contextmanager
def sharing_their_port(*sockets: SocketType) -> Iterator[None]:
    """Within this, SO_REUSEADDR lets each of `sockets` be bound to the port of the others, and no other program's.

    The kernel lets sockets share a port if all of them have the option at the moment of bind(2). It is taken away from
    all of them again, so that nobody else can have the port later. Some may have been closed by then.
    """
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        yield
    finally:
        for each in sockets:
            if each.fileno() >= 0:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
