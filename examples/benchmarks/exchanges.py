"""Clients and a backend of threads: requests of 100 bytes, replies of 1 KiB."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

REQUEST, REPLY = bytes(100), bytes(1024)
_LIMIT = 120.0
"""Seconds that a client waits for a reply: the proxy may be fifty times slower than it is in earnest."""


@contextmanager
def answering() -> Iterator[tuple[str, int]]:
    """The address of a backend."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=1024)) as backend:
        threading.Thread(target=_serve, args=(backend,), daemon=True).start()
        yield backend.getsockname()


def is_served(address: tuple[str, int]) -> bool:
    """Whether a request is answered."""
    try:
        with socket.create_connection(address, timeout=_LIMIT) as sock:
            return exchange(sock)
    except OSError:
        return False


def ask(address: tuple[str, int], connections: int, requests: int) -> None:
    """Connect so often, one after the other, with so many requests each. Raises OSError where one is not answered."""
    for _ in range(connections):
        with socket.create_connection(address, timeout=_LIMIT) as sock:
            ask_on(sock, requests)


def ask_on(sock: socket.socket, requests: int) -> None:
    """Make so many requests on a connection. Raises OSError where one is not answered."""
    for _ in range(requests):
        if not exchange(sock):
            raise ConnectionResetError("a connection has ended before the reply")


def exchange(sock: socket.socket) -> bool:
    """Whether the reply to one request has come. Raises OSError."""
    sock.sendall(REQUEST)
    return _receive(sock, len(REPLY))


def _serve(listening: socket.socket) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:  # it is closed
            return
        threading.Thread(target=_answer, args=(client,), daemon=True).start()


def _answer(client: socket.socket) -> None:
    with client:
        while _receive(client, len(REQUEST)):
            client.sendall(REPLY)


def _receive(sock: socket.socket, size: int) -> bool:
    """Whether so many bytes have come."""
    while size:
        data = sock.recv(size)
        if not data:
            return False
        size -= len(data)
    return True
