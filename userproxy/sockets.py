"""A port that several sockets of ours share, and nobody else's."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from socket import SocketType


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
