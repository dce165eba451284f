"""One client of a UDP listener, and the socket that stands for it towards its endpoint."""

import errno
from collections.abc import Callable
from socket import SocketType
from typing import Final

from userproxy.forwarding.descriptors import is_shortage
from userproxy.forwarding.observation.counters import EndpointCounters
from userproxy.forwarding.observation.reasons import GIVEN_UP, in_words
from userproxy.forwarding.observation.recorder import FailedDial, Peer
from userproxy.forwarding.poller import WHILE_DATAGRAMS
from userproxy.forwarding.udp.datagrams import last_error
from userproxy.forwarding.udp.flows import Flow
from userproxy.forwarding.udp.sockets import dropped
from userproxy.forwarding.udp.source_trial import SourceTrial
from userproxy.forwarding.udp.surroundings import Listener
from userproxy.model import Endpoint
from userproxy.model.reports import ChangeKind, Outcome, Source

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


class UdpFlow(Flow):
    """One client of one listener, and the socket that stands for it towards its endpoint.

    `failed` are the endpoints that have refused its datagrams since it was last answered, `retries` how many there
    were before. `portal` is what its client writes to, None where that is not known. `source` is whose address its
    endpoint sees, and `trial` finds out whether that can be the client's. `settled_up` and `settled_down` are the bytes
    that its endpoint's counters have already.
    """

    __slots__ = (
        "_closed",
        "_descriptor",
        "_outbox",
        "_socket",
        "_statistics",
        "address",
        "addressee",
        "answered",
        "bytes_down",
        "bytes_up",
        "counters",
        "endpoint",
        "failed",
        "id",
        "listener",
        "opened",
        "peer",
        "portal",
        "receive_into",
        "retries",
        "send",
        "settled_down",
        "settled_up",
        "source",
        "trial",
        "tried",
        "unanswered",
    )

    send: Callable[[bytes | memoryview], int]
    receive_into: Callable[[memoryview], int]

    def __init__(self, listener: Listener, client: bytes, peer: Peer, addressee: bytes, now: float) -> None:
        super().__init__(client)
        recorder = listener.plane.recorder
        self.id = recorder.last_id = recorder.last_id + 1
        self.listener = listener
        self.portal = listener.portal
        self.peer = peer
        self.address = peer[0]
        self.addressee = addressee
        self.opened = now
        self.answered = False
        self.unanswered: bytes | None = None
        self.tried: tuple[Endpoint, ...] = ()
        self.endpoint: Endpoint | None = None
        self.source: Source | None = None
        self.trial: SourceTrial | None = None
        self.counters: EndpointCounters | None = None
        self.failed: tuple[FailedDial, ...] = ()
        self.retries = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.settled_up = 0
        self.settled_down = 0
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
                sock, pair = listener.plane.connect(self.address, endpoint, listener.sources_of(self.address))
            except OSError as error:
                if is_shortage(error) or isinstance(error, BlockingIOError):  # EAGAIN: there is no local port left
                    listener.note_shortage("the kernel gives no socket or port")
                    return False
                self._note_failure(endpoint, error.errno)
                balancer.suspect(endpoint, now)
                continue
            self._release_socket()
            self._leave_endpoint()
            self.endpoint = endpoint
            self.source = Source.NODE if pair is None else Source.CLIENT
            self.trial = None if pair is None or pair.answered else SourceTrial(self, pair, now)
            self.counters = counters = self._statistics.endpoints[endpoint]
            counters.active += 1
            counters.total += 1
            listener.plane.poller.add(sock.fileno(), WHILE_DATAGRAMS, self._on_event, self)
            self._send_by(sock)
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
            self._note_failure(self.endpoint, number)
            self.listener.chooser.suspect(self.endpoint, now)
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

    def note_lost(self, reason: str, now: float) -> None:
        """Note that nobody has taken its client's datagram, unless enough was said of lost datagrams just now."""
        if self.listener.losses.take(self.client, now):
            self.note(Outcome.DROPPED, reason)
        else:
            self.retries += len(self.failed)
            self.failed = ()

    def note(self, outcome: Outcome, reason: str = "") -> None:
        """Note what has become of it, and why, together with the endpoints that have failed."""
        failed, self.failed = self.failed, ()
        self.retries += len(failed)
        listener = self.listener
        now = listener.now()
        endpoint = None if outcome is Outcome.DROPPED and failed else self.endpoint
        listener.decisions.add(
            (
                now,
                listener.name,
                self.peer,
                self.portal,
                endpoint,
                outcome,
                reason,
                failed,
                now - self.opened,
                self.bytes_up,
                self.bytes_down,
                self.source,
                self.id,
            )
        )

    def settle(self) -> None:
        """Count the bytes that it has moved since they were last counted for its endpoint."""
        if self.counters is not None:
            self.counters.bytes_up += self.bytes_up - self.settled_up
            self.counters.bytes_down += self.bytes_down - self.settled_down
            self.settled_up, self.settled_down = self.bytes_up, self.bytes_down

    def close(self, reason: str = "", outcome: Outcome = Outcome.SERVED) -> None:
        """End the flow. Answers that are still to come are lost."""
        if not self._closed:
            self._closed = True
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
        try:
            spare, _ = plane.connect(self.address, self.endpoint)
        except OSError:
            plane.budget.give(1)
            return None
        plane.poller.add(spare.fileno(), WHILE_DATAGRAMS, self._on_spare_event, self)
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

    def _tell_of_change(self) -> None:
        recorder = self.listener.plane.recorder
        if recorder.connection_watches:
            recorder.tell_change(ChangeKind.MODIFIED, self)

    def _note_failure(self, endpoint: Endpoint, number: int | None) -> None:
        words, kind = in_words(number or errno.EIO)
        self.failed = (*self.failed[1 - TRIES :], (endpoint, words, kind))
        self._statistics.dial_failures += 1
        self._statistics.failed(endpoint, kind)

    def _note_retried(self) -> None:
        self._statistics.retried += 1
        self.note(Outcome.RETRIED, self.failed[-1][1])

    def _note_end(self, reason: str, outcome: Outcome) -> None:
        if self.counters is None:
            return
        recorder = self.listener.plane.recorder
        if recorder.connection_watches:
            recorder.tell_change(ChangeKind.REMOVED, self)
        if self.failed:
            self._note_retried()
        self._leave_endpoint()
        self._statistics.ended += 1
        self._statistics.seconds += self.listener.now() - self.opened
        self.note(outcome, reason)

    def _leave_endpoint(self) -> None:
        if self.counters is not None:
            self.settle()
            self.counters.active -= 1
            self.counters = None

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
