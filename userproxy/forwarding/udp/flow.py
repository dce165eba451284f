"""One client of a UDP listener, and the socket that stands for it towards its endpoint."""

import errno
from collections.abc import Callable
from socket import SocketType
from typing import Final

from userproxy.forwarding.descriptors import is_shortage
from userproxy.forwarding.observation.reasons import GIVEN_UP
from userproxy.forwarding.observation.recorder import Peer
from userproxy.forwarding.poller import WHILE_DATAGRAMS
from userproxy.forwarding.udp.datagrams import last_error
from userproxy.forwarding.udp.flow_account import TRIES, FlowAccount
from userproxy.forwarding.udp.sockets import dropped
from userproxy.forwarding.udp.sources.source_trial import SourceTrial
from userproxy.forwarding.udp.surroundings import Listener
from userproxy.model import Endpoint
from userproxy.model.reports import Outcome, Source

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


class UdpFlow(FlowAccount):
    """One client of one listener, and the socket that stands for it towards its endpoint.

    `trial` finds out whether its endpoint can see the client's address.
    """

    __slots__ = (
        "_closed",
        "_descriptor",
        "_outbox",
        "_socket",
        "addressee",
        "answered",
        "receive_into",
        "send",
        "trial",
        "tried",
        "unanswered",
    )

    send: Callable[[bytes | memoryview], int]
    receive_into: Callable[[memoryview], int]

    def __init__(self, listener: Listener, client: bytes, peer: Peer, addressee: bytes, now: float) -> None:
        super().__init__(listener, client, peer, now)
        self.addressee = addressee
        self.answered = False
        self.unanswered: bytes | None = None
        self.tried: tuple[Endpoint, ...] = ()
        self.trial: SourceTrial | None = None
        self._outbox = listener.outbox
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
                sock, pair = listener.plane.connect(self.address, endpoint, listener.sources_of(self.address))
            except OSError as error:
                if is_shortage(error) or isinstance(error, BlockingIOError):  # EAGAIN: there is no local port left
                    listener.note_shortage("the kernel gives no socket or port")
                    return False
                self._note_failure(endpoint, error.errno, now)
                continue
            self._release_socket()
            self._leave_endpoint()
            self.endpoint = endpoint
            self.source = Source.NODE if pair is None else Source.CLIENT
            self.trial = None if pair is None or pair.answered else SourceTrial(self, pair, now)
            self.counters = counters = self._statistics.endpoints[endpoint]
            counters.active += 1
            counters.total += 1
            self._send_by(sock)  # first, so that it is closed with the flow if the kernel can watch no more
            listener.plane.poller.add(sock.fileno(), WHILE_DATAGRAMS, self._on_event, self)
            if listener.faults is not None:
                listener.faults.begin(self)
            return True
        balancer.forget(self.address)
        return False

    @property
    def socket(self) -> SocketType | None:
        """The socket towards its endpoint."""
        return self._socket

    @property
    def mark(self) -> tuple[object, ...]:
        """What changes whenever the state changes."""
        return (self._socket, self.bytes_up, self.bytes_down, self.due, self.unanswered, self.failed, self.settled_up)

    def adopt(self, sock: SocketType, endpoint: Endpoint) -> None:
        """Go on with the socket of another process, which is connected to `endpoint`."""
        poller = self.listener.plane.poller
        self._end_trial()
        if self._socket is not None:
            poller.close_at_once(self._socket)
        if self.counters is not None:
            self.counters.active -= 1
        self.endpoint = endpoint
        self.counters = counters = self._statistics.endpoints[endpoint]
        counters.active += 1
        poller.add(sock.fileno(), WHILE_DATAGRAMS, self._on_event, self)
        self._send_by(sock)

    def vanish(self) -> None:
        """Close our copy of its socket: it has ended in another process, where that was counted."""
        self._closed = True
        self._end_trial()
        if self._socket is not None and self.counters is not None:
            self.counters.active -= 1
            self.listener.plane.poller.close_at_once(self._socket)
        self.listener.closed(self)

    def forsake(self) -> None:
        """Close our copies of its sockets: it is another process's."""
        self._closed = True
        for sock in (self._socket, self.trial.spare if self.trial is not None else None):
            if sock is not None:
                sock.close()
        self._socket = None

    def move(self, now: float, number: int | None) -> bool:
        """Leave an endpoint that refuses: connect to the next one and send it the datagram that was left unanswered.

        `number` is the errno by which the kernel says so.

        False if there is no other one. Then the datagram is lost, and the flow stays, since the endpoint may come back.
        """
        if self.endpoint is not None:
            self._note_failure(self.endpoint, number, now)
            if self.endpoint not in self.tried:
                self.tried += (self.endpoint,)
        unanswered = self.unanswered
        if not self.dial(now):
            self.tried = ()
            self.unanswered = None
            self.note_lost("no endpoint takes its datagram", now)
            return False
        self.moved()
        self._send_again(unanswered)
        return True

    def escape(self, now: float, number: int | None) -> bool:
        """Whether it can go on from the node's address, where its client's has met an error.

        Then the datagram that was left unanswered is sent again.
        """
        if self.trial is None or not self.trial.fails(number, now):
            return False
        self._send_again(self.unanswered)
        return True

    def moved(self) -> None:
        """Note that it has gone to another endpoint."""
        self._statistics.moved += 1
        self._tell_of_change()

    @property
    def node(self) -> Peer:
        """From where its datagrams go to the endpoint."""
        ip, port, *_ = self._socket.getsockname() if self._socket is not None else ("", 0)
        return ip, port

    def tap(self, send: Callable[[bytes | memoryview], int], receive_into: Callable[[memoryview], int]) -> None:
        """Move datagrams by these functions from now on, one by one, until it moves to another endpoint."""
        self.send, self.receive_into = send, receive_into
        self.listener.plane.poller.replace(self._descriptor, self._on_tapped_event, self)

    def untap(self) -> None:
        """Move datagrams as before :meth:`tap`."""
        if self._socket is not None:
            self.send, self.receive_into = self._socket.send, self._socket.recv_into
            self.listener.plane.poller.replace(self._descriptor, self._on_event, self)

    def answer(self, data: bytes) -> None:
        """Send the client an answer that its endpoint gave some time ago."""

        def give(view: memoryview) -> int:
            view[: len(data)] = data
            return len(data)

        if not self._closed:
            self.bytes_down += self._outbox.collect_one(self.listener, give, self.addressee)
            self._outbox.flush()
            self._note_answered()
            self.listener.note_reply(self, self.listener.now())

    def close(self, reason: str = "", outcome: Outcome = Outcome.SERVED) -> None:
        """End the flow. Answers that are still to come are lost."""
        if not self._closed:
            self._closed = True
            if self.listener.faults is not None:
                reason = self.listener.faults.reason(self.id, reason)
            self._note_end(reason, outcome)
            try:
                self._release_socket()
            finally:
                self.listener.closed(self)

    def abort(self, reason: str = GIVEN_UP) -> None:
        """End the flow, because it cannot go on."""
        self.close(reason, Outcome.DROPPED)

    def open_spare(self) -> SocketType | None:
        """Another socket towards its endpoint, from the node's address; None if none can be had now."""
        plane = self.listener.plane
        if self.endpoint is None or not plane.budget.take(1):
            return None
        spare = None
        try:
            spare, _ = plane.connect(self.address, self.endpoint)
            plane.poller.add(spare.fileno(), WHILE_DATAGRAMS, self._on_spare_event, self)
        except OSError:
            if spare is not None:
                spare.close()
            plane.budget.give(1)
            return None
        return spare

    def close_spare(self, spare: SocketType) -> None:
        """Close a socket by which nothing is sent."""
        self._statistics.add_dropped(dropped(spare))
        self.listener.plane.poller.close_at_once(spare)
        self.listener.plane.budget.give(1)

    def go_by(self, sock: SocketType, source: Source) -> SocketType | None:
        """Send by another of its sockets from now on; returns the one so far, whose answers are taken on."""
        before = self._socket
        poller = self.listener.plane.poller
        poller.replace(self._descriptor, self._on_spare_event, self)
        poller.replace(sock.fileno(), self._on_event, self)
        self._send_by(sock)
        if self.listener.faults is not None:
            self.listener.faults.begin(self)
        self.source = source
        self._tell_of_change()
        return before

    def _send_by(self, sock: SocketType) -> None:
        self._socket = sock
        self._descriptor = sock.fileno()
        self.receive_into = sock.recv_into
        self.send = sock.send

    def _send_again(self, unanswered: bytes | None) -> None:
        if unanswered is not None and unanswered is not LARGE:
            try:
                self.send(unanswered)
            except OSError:
                self._statistics.unsent += 1

    def _end_trial(self) -> None:
        trial, self.trial = self.trial, None
        if trial is not None:
            trial.close()

    def _release_socket(self) -> None:
        self._end_trial()
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
            self.bytes_down += self._outbox.collected
        else:
            try:
                self.bytes_down += self._outbox.collect_one(self.listener, self.receive_into, self.addressee)
            except OSError as error:
                self._survive(error.errno)
                return
            self._note_answered()
            if self.trial is not None:
                self.trial.answered()
        now = self.listener.now()
        if now >= self.due:
            self.listener.note_reply(self, now)

    def _note_answered(self) -> None:
        self.unanswered = None
        self.answered = True
        self.tried = ()
        if self.failed:
            self._note_retried()

    def _on_spare_event(self, _events: int) -> None:
        """Receive an answer at the address from which nothing is sent now."""
        trial = self.trial
        if trial is None or trial.spare is None:
            return
        try:
            self.bytes_down += self._outbox.collect_one(self.listener, trial.spare.recv_into, self.addressee)
        except OSError:
            return
        self._note_answered()
        trial.spare_answered()
        self.listener.note_reply(self, self.listener.now())

    def _on_tapped_event(self, events: int) -> None:
        if self.unanswered is not None:
            self._on_event(events)
            return
        self.unanswered = LARGE  # so that one answer is received, and by `receive_into`
        self._on_event(events)
        if self.unanswered is LARGE:
            self.unanswered = None

    def _survive(self, number: int | None) -> None:
        """Move to another endpoint if this one cannot be reached; any other error may be temporary, and is ignored."""
        now = self.listener.now()
        if not self.escape(now, number) and number in UNREACHABLE:
            self.move(now, number)
