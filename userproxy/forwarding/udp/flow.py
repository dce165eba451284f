"""One client of a UDP listener, and the socket that stands for it towards its endpoint."""

import errno
from collections.abc import Collection
from socket import SocketType
from typing import Final, Protocol

from userproxy.forwarding.descriptors import is_shortage
from userproxy.forwarding.poller import WHILE_DATAGRAMS, Poller
from userproxy.forwarding.udp.datagrams import Outbox, Sender, last_error
from userproxy.forwarding.udp.flows import Flow
from userproxy.forwarding.udp.sockets import dropped
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Endpoint

TRIES: Final = 4
"""Endpoints that a datagram is sent to at most, each because the one before refused it; kube-proxy's dial attempts."""

LARGE: Final = b"larger than KEPT_BYTES"
"""In place of an unanswered datagram that is not kept; compared by identity."""

UNREACHABLE: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EPROTO,
        errno.EACCES,
        errno.ETIMEDOUT,
    }
)
"""The errors for an endpoint that cannot be reached, from ICMP and routing (icmp(7); the kernel's icmp_err_convert)."""


class Plane(Protocol):
    """What a flow needs of what all listeners share."""

    poller: Poller

    def connect(self, endpoint: Endpoint) -> SocketType:
        """A socket for a flow to `endpoint`. Raises OSError."""


class Chooser(Protocol):
    """What a flow needs of a balancer."""

    def pick(self, client: str, now: float, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint for `client`, one that is not among `tried` if there is any; None if there is none at all."""

    def suspect(self, endpoint: Endpoint, now: float) -> None:
        """Note that the endpoint could not be reached."""

    def forget(self, client: str) -> None:
        """Note that no endpoint could be reached for a client."""


class Listener(Sender, Protocol):
    """What a flow needs of the listener that its client writes to."""

    chooser: Chooser
    outbox: Outbox
    statistics: UdpStatistics

    @property
    def plane(self) -> Plane:
        """What all listeners share."""

    def now(self) -> float:
        """The loop's time."""

    def note_reply(self, flow: "UdpFlow", now: float) -> None:
        """Note that an answer of the endpoint has come."""

    def note_shortage(self, reason: str) -> None:
        """Note that there is no socket for a flow; `reason` is a clause for the log."""

    def closed(self, flow: "UdpFlow") -> None:
        """Note that a flow has ended."""


class UdpFlow(Flow):
    """One client of one listener, and the socket that stands for it towards its endpoint."""

    __slots__ = (
        "_closed",
        "_descriptor",
        "_outbox",
        "_socket",
        "_statistics",
        "address",
        "addressee",
        "answered",
        "endpoint",
        "listener",
        "opened",
        "receive_into",
        "send",
        "tried",
        "unanswered",
    )

    def __init__(self, listener: Listener, client: bytes, address: str, addressee: bytes, now: float) -> None:
        super().__init__(client)
        self.listener = listener
        self.address = address
        self.addressee = addressee
        self.opened = now
        self.answered = False
        self.unanswered: bytes | None = None
        self.tried: tuple[Endpoint, ...] = ()
        self.endpoint: Endpoint | None = None
        self._outbox = listener.outbox
        self._statistics = listener.statistics
        self._socket: SocketType | None = None
        self._descriptor = -1
        self._closed = False

    def dial(self, now: float) -> bool:
        """Connect to an endpoint that is not among `tried`; False if there is none, and all stays as it is."""
        listener = self.listener
        balancer = listener.chooser
        while len(self.tried) < TRIES:
            endpoint = balancer.pick(self.address, now, self.tried)
            if endpoint is None or endpoint in self.tried:
                break
            self.tried += (endpoint,)
            try:
                sock = listener.plane.connect(endpoint)
            except OSError as error:
                if is_shortage(error) or isinstance(error, BlockingIOError):  # EAGAIN: there is no local port left
                    listener.note_shortage("the kernel gives no socket or port")
                    return False
                self._statistics.dial_failures += 1
                balancer.suspect(endpoint, now)
                continue
            self._release_socket()
            self.endpoint = endpoint
            self._socket = sock
            self._descriptor = sock.fileno()
            self.receive_into = sock.recv_into
            self.send = sock.send
            listener.plane.poller.add(self._descriptor, WHILE_DATAGRAMS, self._on_event, self)
            return True
        balancer.forget(self.address)
        return False

    def move(self, now: float) -> bool:
        """Leave an endpoint that refuses: connect to the next one and send it the datagram that was left unanswered.

        False if there is no other one. Then the datagram is lost, and the flow stays, since the endpoint may come back.
        """
        self._statistics.dial_failures += 1
        if self.endpoint is not None:
            self.listener.chooser.suspect(self.endpoint, now)
            if self.endpoint not in self.tried:
                self.tried += (self.endpoint,)
        unanswered = self.unanswered
        if not self.dial(now):
            self.tried = ()
            self.unanswered = None
            return False
        self._statistics.moved += 1
        if unanswered is not None and unanswered is not LARGE:
            try:
                self.send(unanswered)
            except OSError:
                self._statistics.unsent += 1
        return True

    def close(self) -> None:
        """End the flow. Answers that are still to come are lost."""
        if not self._closed:
            self._closed = True
            try:
                self._release_socket()
            finally:
                self.listener.closed(self)

    abort = close

    def _release_socket(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            self._statistics.add_dropped(dropped(sock))
            self.listener.plane.poller.close_at_once(sock)

    def _on_event(self, _events: int) -> None:
        """Receive answers. A request mostly has one; after that one, several are read at once."""
        if self._closed:
            return
        if self.unanswered is None:
            if self._outbox.collect(self.listener, self._descriptor, self.addressee) < 0:
                self._survive(last_error())
                return
        else:
            try:
                self._outbox.collect_one(self.listener, self.receive_into, self.addressee)
            except OSError as error:
                self._survive(error.errno)
                return
            self.unanswered = None
            self.answered = True
            self.tried = ()
        now = self.listener.now()
        if now >= self.due:
            self.listener.note_reply(self, now)

    def _survive(self, number: int | None) -> None:
        """Move to another endpoint if this one cannot be reached; any other error may be temporary, and is ignored."""
        if number in UNREACHABLE:
            self.move(self.listener.now())
