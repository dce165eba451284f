"""The few socket calls that the data plane makes, with the kernel's constants that Python lacks."""

import fcntl
import socket
import struct
import sys
import termios
from socket import SocketType

from userproxy.errors import PortUnavailableError
from userproxy.model import Endpoint

SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h; Python's socket module does not have it."""

_BACKLOG = 65_535
"""Asked of listen(2); the kernel cuts it to net.core.somaxconn, as Go does."""

_KEEPALIVE_SECONDS = 15
"""Go's default for idle time and interval, on both legs of the original."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ListeningSocket(SocketType):
    """A TCP listener. Accepted sockets inherit TCP_NODELAY and keep-alive from it, which saves calls on each."""

    def __init__(self, host: str, port: int) -> None:
        """Listen on `host:port`; port 0 lets the kernel pick.

        Raises PortUnavailableError where the port is taken or may not be bound.
        """
        try:
            super().__init__(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            _set_tcp_options(self)
            if port:
                self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind((host, port))
            # Set before a bind to port 0 it makes the kernel search a quarter of its range, which with
            # 10,000 listeners takes 3.7 s instead of 0.1 s. Accepted sockets inherit it in either case.
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listen(_BACKLOG)
        except OSError as error:
            self.close()
            raise PortUnavailableError(f"cannot listen on {host}:{port}: {error.strerror}") from error

    @property
    def port(self) -> int:
        port: int = self.getsockname()[1]
        return port

    def accept_client(self) -> tuple[SocketType, str]:
        """One client's socket, non-blocking, and its address. Raises what accept(2) raises.

        socket.socket.accept() costs 3 us more than this: it looks up enumerations for every client.
        """
        descriptor, address = self._accept()  # type: ignore[attr-defined] # typeshed knows socket.socket's public half only
        client = SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
        client.settimeout(0)
        return client, address[0]


def start_dial(endpoint: Endpoint) -> tuple[SocketType, int]:
    """A socket on its way to `endpoint`, and connect(2)'s errno: 0 (there already), EINPROGRESS or a failure.

    Raises OSError where no socket can be made.
    """
    backend = SocketType(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    _set_tcp_options(backend)
    return backend, backend.connect_ex((endpoint.ip, endpoint.port))


def is_direct(client: SocketType, local_port: int) -> bool:
    """Whether a client dialled the listener itself rather than a portal.

    After REDIRECT or DNAT the kernel still knows the address that the client wrote to
    (SO_ORIGINAL_DST); without a translation it is the listener's own, or unknown (ENOENT) where
    connection tracking is not loaded at all.
    """
    try:
        original = client.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    except OSError:
        return True
    port = int.from_bytes(original[2:4], "big")
    return port == local_port and socket.inet_ntoa(original[4:8]) == client.getsockname()[0]


def reset_on_close(sock: SocketType) -> None:
    """Make close() send a RST and drop what is unsent (socket(7), SO_LINGER with time 0)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def unacknowledged(sock: SocketType) -> int:
    """Bytes sent that the peer has not acknowledged (tcp(7), SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def _set_tcp_options(sock: SocketType) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS)
