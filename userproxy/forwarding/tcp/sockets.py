"""The socket calls of TCP, with the kernel's constants that Python lacks."""

import errno
import fcntl
import select
import socket
import struct
import sys
import termios
from array import array
from contextlib import suppress
from socket import SocketType
from typing import Final, Protocol, Self

from userproxy.addresses import host_and_port, socket_family
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.admission import DROP_EVERYTHING, attach, detach
from userproxy.model import Endpoint, Verdict
from userproxy.sockets import disconnect, lead_here, share

SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h; Python's socket module does not have it."""

IP6T_SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv6/ip6_tables.h, at level SOL_IPV6, which Python's socket module calls IPPROTO_IPV6."""

IP_BIND_ADDRESS_NO_PORT = 24
"""linux/in.h: bind(2) takes the address alone, and connect(2) chooses a port that is free towards its peer."""

IPV6_TRANSPARENT = 75
"""linux/in6.h."""

UNDER_WAY = frozenset({0, errno.EINPROGRESS})
"""What connect(2) says of a socket that is, or soon may be, connected."""

_SOCKADDR_IN6_BYTES = 28

_BACKLOG = 65_535
"""Asked of listen(2); the kernel cuts it to net.core.somaxconn, as Go does."""

_KEEPALIVE_SECONDS = 15
"""Go's default for idle time and interval, on both legs of the original."""

_LAST_DATA_SENT, _LAST_DATA_RECV = 44, 52
"""Where in struct tcp_info these milliseconds are."""

_ACCEPT_QUEUE = 24
"""The same: of a socket that listens, how many connections wait to be accepted (tcp_get_info() in the kernel)."""

_TCP_CLOSE = 7
"""include/net/tcp_states.h."""

# Plain numbers of this module, for what is done for every connection.
_AF_INET: Final = int(socket.AF_INET)
_AF_INET6: Final = int(socket.AF_INET6)
_STREAM: Final = int(socket.SOCK_STREAM)
_NON_BLOCKING_STREAM: Final = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
_IPPROTO_TCP: Final = int(socket.IPPROTO_TCP)
_TCP_NODELAY: Final = socket.TCP_NODELAY
_TCP_KEEPIDLE: Final = socket.TCP_KEEPIDLE
_TCP_KEEPINTVL: Final = socket.TCP_KEEPINTVL
_SOL_SOCKET: Final = socket.SOL_SOCKET
_SO_KEEPALIVE: Final = socket.SO_KEEPALIVE
_SO_REUSEADDR: Final = socket.SO_REUSEADDR
_TIOCOUTQ: Final = termios.TIOCOUTQ
_UNACKNOWLEDGED: Final = array("i", [0])

_CONNECTED: Final = select.POLLOUT | select.POLLRDHUP

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class HasFileno(Protocol):
    """A socket, or what stands for one."""

    def fileno(self) -> int:
        """Its descriptor."""


class ListeningSocket(SocketType):
    """A TCP listener. Accepted sockets inherit TCP_NODELAY and keep-alive from it, which saves calls on each.

    It holds its port until it is closed, whatever the verdict.
    """

    __slots__ = ("_domain", "_filtered", "listening")

    def __init__(self, descriptor: int) -> None:
        """Take over a bound socket by its descriptor: with the options that :meth:`open` sets, and no filter."""
        super().__init__(fileno=descriptor)
        self.settimeout(0)
        self._domain = self.family  # which is made anew each time
        self.listening = bool(self.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        self._filtered = False

    @classmethod
    def open(cls, host: str, port: int, verdict: Verdict = Verdict.REJECT) -> Self:
        """One that holds `host:port` and treats clients by `verdict`. An IPv6 host takes no IPv4 clients.

        The port is given by its number: one that the kernel picks is lost when the socket does not listen. Raises
        PortUnavailableError where it is taken or may not be bound.
        """
        with _ToListenAt(host, port) as sock:
            sock.bind((host, port))
            if verdict is Verdict.REJECT:
                sock.listen(_BACKLOG)  # only then is it sure that nobody else listens there
            opened = cls(sock.detach())
            try:
                opened.set_verdict(verdict)
            except OSError:
                opened.close()
                raise
        return opened

    @classmethod
    def open_shared(cls, host: str, port: int, instructions: bytes | None) -> Self:
        """One that listens at `host:port`, beside others of the same user that have SO_REUSEPORT, too.

        So a successor can listen before its predecessor ends, and has all new clients from then on. The node need not
        have the address yet. `instructions` are a program that says who is let in, None for everybody. Raises
        PortUnavailableError.
        """
        with _ToListenAt(host, port) as sock:
            share(sock)
            sock.bind((host, port))
            if instructions is not None:
                attach(sock, instructions)
            sock.listen(_BACKLOG)
            lead_here(sock)
            return cls(sock.detach())

    @classmethod
    def adopt(cls, descriptor: int, verdict: Verdict) -> Self:
        """That of another process, which treats clients by `verdict`."""
        adopted = cls(descriptor)
        adopted._filtered = verdict is Verdict.DROP
        return adopted

    def set_verdict(self, verdict: Verdict) -> None:
        """Accept clients, or refuse them as a closed port does, or leave them without an answer.

        Connections that were accepted go on; those that wait to be accepted are reset by REJECT. Raises OSError
        where the kernel lacks memory for it; then it can be tried again.

        Two properties of Linux are used. shutdown(SHUT_RD) takes a TCP socket out of LISTEN, and a port that was
        bound by its number stays bound (inet_shutdown(), SOCK_BINDPORT_LOCK). A socket filter sees the packets of
        new clients only, for accepted sockets have their own.
        """
        if verdict is Verdict.DROP and not self._filtered:
            attach(self, DROP_EVERYTHING)
            self._filtered = True
        if verdict is not Verdict.REJECT:
            self._listen()
        elif self.listening:
            self.shutdown(socket.SHUT_RD)
            self.listening = False
            # Otherwise another program with SO_REUSEADDR could listen here meanwhile.
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        if verdict is not Verdict.DROP and self._filtered:
            detach(self)
            self._filtered = False

    def _listen(self) -> None:
        if not self.listening:
            # Accepted sockets hold the port, too, and listen(2) asks whether all of them would share it.
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listen(_BACKLOG)
            self.listening = True

    @property
    def port(self) -> int:
        port: int = self.getsockname()[1]
        return port

    def accept_client(self) -> tuple[SocketType, tuple[str, int]]:
        """One client's socket, non-blocking, and its address and port. Raises what accept(2) raises.

        socket.socket.accept() costs 3 us more than this: it looks up enumerations for every client.
        """
        descriptor, address = self._accept()  # type: ignore[attr-defined] # typeshed knows socket.socket's public half only
        client = SocketType(self._domain, _STREAM, 0, descriptor)
        client.settimeout(0)
        return client, address


def start_dial(endpoint: Endpoint, local_port: int = 0) -> tuple[SocketType, int]:
    """A socket on its way to `endpoint`, and connect(2)'s errno: 0 (there already), EINPROGRESS or a failure.

    A `local_port` may be one that is in TIME_WAIT towards this endpoint; EADDRNOTAVAIL says that it cannot be had.
    Keep-alive is for :mod:`userproxy.forwarding.tcp.keep_alive` to switch on. Raises OSError where no socket can be
    made.
    """
    ip = endpoint.ip
    backend = SocketType(_AF_INET6 if ":" in ip else _AF_INET, _NON_BLOCKING_STREAM)
    backend.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
    # For the next connection from this port: bind(2) asks whether the one in TIME_WAIT allowed it, too. Who will be in
    # TIME_WAIT when ports run out is not known now: thousands that are kept open may end together.
    backend.setsockopt(_SOL_SOCKET, _SO_REUSEADDR, 1)
    if local_port:
        try:
            backend.bind(("::" if backend.family == socket.AF_INET6 else "", local_port))
        except OSError:
            return backend, errno.EADDRNOTAVAIL
    return backend, backend.connect_ex((ip, endpoint.port))


def start_dial_from(client: str, endpoint: Endpoint, port: int = 0) -> tuple[SocketType, int]:
    """As :func:`start_dial`, from an address that is not this host's; any `port` will do if it is 0.

    Also what bind(2) and setsockopt(2) say is returned as an errno: EPERM without CAP_NET_ADMIN. EADDRINUSE and
    EADDRNOTAVAIL say that the port cannot be had.
    """
    backend = SocketType(socket_family(endpoint.ip), _NON_BLOCKING_STREAM)
    try:
        backend.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
        _allow_foreign_address(backend)
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not port:
            backend.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        backend.bind((client, port))
    except OSError as error:
        return backend, error.errno or errno.EINVAL
    return backend, backend.connect_ex((endpoint.ip, endpoint.port))


def _allow_foreign_address(sock: SocketType) -> None:
    """Let a socket be bound to an address that is not this host's. Raises OSError."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)


def is_answer(error: int) -> bool:
    """Whether an errno of a socket that was connecting, 0 for none, says that its peer has answered."""
    return error in (0, errno.ECONNREFUSED)


def has_source_address(endpoint: Endpoint) -> bool:
    """Whether this node has an address to reach `endpoint` from. Raises OSError where no socket can be made."""
    with socket.socket(socket_family(endpoint.ip), socket.SOCK_DGRAM) as probe:
        # On UDP, connect(2) sends nothing.
        return probe.connect_ex((endpoint.ip, endpoint.port)) != errno.EADDRNOTAVAIL


def source_address(endpoint: Endpoint) -> str:
    """The address from which this node reaches `endpoint`, empty where it has none."""
    with socket.socket(socket_family(endpoint.ip), socket.SOCK_DGRAM) as probe:
        if probe.connect_ex((endpoint.ip, endpoint.port)):
            return ""
        return str(probe.getsockname()[0])


def dialled_portal(client: SocketType, local_port: int) -> bytes | None:
    """The portal that a client dialled, as a struct sockaddr; None if it dialled the listener itself.

    After REDIRECT or DNAT the kernel still knows the address that the client wrote to
    (SO_ORIGINAL_DST); without a translation it is the listener's own, or unknown (ENOENT) where
    connection tracking is not loaded at all.
    """
    try:
        if client.family == socket.AF_INET:
            original: bytes = client.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        else:
            original = client.getsockopt(socket.IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST, _SOCKADDR_IN6_BYTES)
    except OSError:
        return None
    if int.from_bytes(original[2:4], "big") != local_port:
        return original
    own: str = client.getsockname()[0]
    return None if ip_and_port(original)[0] == own.partition("%")[0] else original


def ip_and_port(address: bytes) -> tuple[str, int]:
    """What a struct sockaddr_in or sockaddr_in6 says."""
    port = int.from_bytes(address[2:4], "big")
    if len(address) < _SOCKADDR_IN6_BYTES:
        return socket.inet_ntoa(address[4:8]), port
    return socket.inet_ntop(socket.AF_INET6, address[8:24]), port


def was_reset(sock: SocketType) -> bool:
    """Whether the peer has reset the connection: its state in struct tcp_info is TCP_CLOSE."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE


def queued(listening: SocketType) -> int:
    """How many clients wait to be accepted."""
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACCEPT_QUEUE + 4)
    return int.from_bytes(info[_ACCEPT_QUEUE:], sys.byteorder)


def reset_on_close(sock: SocketType) -> None:
    """Make close() send a RST and drop what is unsent (socket(7), SO_LINGER with time 0)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def end_at_once(sock: SocketType, *, reset: bool) -> None:
    """End a connection of which another process has a copy, so that its peer hears of it before that is closed, too.

    `reset` is with a RST: connect(2) to nobody dissolves a TCP connection (tcp_disconnect() in the kernel).
    """
    with suppress(OSError):
        if reset:
            disconnect(sock)
        else:
            sock.shutdown(socket.SHUT_RDWR)


def unacknowledged(sock: HasFileno) -> int:
    """Bytes sent that the peer has not acknowledged (tcp(7), SIOCOUTQ).

    For the loop's thread. The number is written to the same array each time: immutable bytes, which ioctl() copies,
    cost it an exception and its message, ten times the rest.
    """
    fcntl.ioctl(sock.fileno(), _TIOCOUTQ, _UNACKNOWLEDGED)
    return _UNACKNOWLEDGED[0]


def has_connection(sock: SocketType) -> bool:
    """Whether accept(2) would return somebody now."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def connecting_events(sock: SocketType) -> int:
    """What epoll(7) has to say, or has said, of a socket that is being connected; 0 while there is no answer.

    A process that had no CPU for longer than a time limit may find that over before it finds out what has come.
    """
    poll = select.poll()
    poll.register(sock, _CONNECTED)
    found = poll.poll(0)
    return found[0][1] if found else 0


def quiet_seconds(sock: SocketType) -> tuple[float, float]:
    """Seconds since the peer last sent bytes, and since it was last sent some.

    Both count from the handshake where nothing was sent yet (linux/tcp.h, struct tcp_info).
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECV + 4)
    told, heard = (int.from_bytes(info[at : at + 4], sys.byteorder) for at in (_LAST_DATA_SENT, _LAST_DATA_RECV))
    return heard / 1000, told / 1000


class _ToListenAt:
    """A context that has a TCP socket with its options, not bound yet; closed afterwards, unless it has been detached.

    What fails meanwhile is a PortUnavailableError with address and reason.
    """

    __slots__ = ("_host", "_port", "_sock")

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._sock: SocketType | None = None

    def __enter__(self) -> SocketType:
        try:
            sock = self._sock = SocketType(socket_family(self._host), socket.SOCK_STREAM)
            _set_tcp_options(sock)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            self._close()
            raise self._unavailable(error) from error
        return sock

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._close()
        if isinstance(error, OSError):
            raise self._unavailable(error) from error

    def _close(self) -> None:
        if self._sock is not None:
            self._sock.close()

    def _unavailable(self, error: OSError) -> PortUnavailableError:
        return PortUnavailableError(f"cannot listen on {host_and_port(self._host, self._port)}: {error.strerror}")


def _set_tcp_options(sock: SocketType) -> None:
    sock.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
    keep_alive(sock)


def keep_alive(sock: SocketType) -> None:
    """Have the kernel ask the peer of a silent connection whether it is still there (tcp(7))."""
    sock.setsockopt(_SOL_SOCKET, _SO_KEEPALIVE, 1)
    sock.setsockopt(_IPPROTO_TCP, _TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
    sock.setsockopt(_IPPROTO_TCP, _TCP_KEEPINTVL, _KEEPALIVE_SECONDS)
