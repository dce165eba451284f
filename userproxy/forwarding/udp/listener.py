"""UDP: the listener that all portals of a UDP service port lead to, and its clients' flows."""

import asyncio
import errno
import os
import select
from collections.abc import Callable
from socket import SocketType
from typing import Final

import structlog
from msgspec import Struct

from userproxy.forwarding.descriptors import DescriptorBudget, is_shortage
from userproxy.forwarding.own_addresses import OwnAddresses
from userproxy.forwarding.poller import READABLE, Handler, Owner, Poller
from userproxy.forwarding.udp.datagrams import (
    BATCH,
    DatagramSocket,
    Inbox,
    Outbox,
    dropped,
    last_error,
    receive_batch,
    start_flow,
)
from userproxy.forwarding.udp.flows import STREAM_AFTER, Flow, FlowQuota, FlowTable, idle_limits
from userproxy.model import Endpoint, IPFamily, ListenerName, Snapshot, Verdict
from userproxy.routing.balancer import Balancer

log = structlog.get_logger()

TRIES: Final = 4
"""Endpoints that a datagram is sent to at most, each because the one before refused it; kube-proxy's dial attempts."""

KEPT_BYTES: Final = 2048
"""Up to this size a flow's unanswered datagram is kept, to be sent again if its endpoint refuses it."""

PENDING_SECONDS: Final = 2.0
"""So long a drain counts on an answer."""

FLOW_LIMIT: Final = 16_384
"""Each flow has a local port of its own, and net.ipv4.ip_local_port_range has 28,232: the node needs some, too."""

_BATCHES_PER_TURN: Final = 4
_QUIET_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 1.0

_LARGE: Final = b"larger than KEPT_BYTES"
"""In place of an unanswered datagram that is not kept; compared by identity."""

_UNREACHABLE: Final = frozenset(
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
"""What ICMP and routing say of an endpoint that cannot be reached (icmp(7); the kernel's icmp_err_convert)."""


class UdpOptions(Struct, frozen=True):
    """Limits of the flows of a process and of one listener, and the configured ``--udp-timeout`` in seconds.

    ``udp_timeout`` is how long any flow may be quiet in both directions. If it is None, 30 s hold, and 120 s for a
    flow that went both ways and has lasted for 2 s.
    """

    flow_limit: int = FLOW_LIMIT
    flow_limit_per_listener: int = FLOW_LIMIT * 4 // 5
    udp_timeout: float | None = None


def flow_limits(descriptor_limit: int) -> tuple[int, int]:
    """Limits that suit a process's limit of open files: in all, and per listener.

    A DNS client asks from a new port each time, so 300 queries a second are 10,000 flows; what is left of the files is
    for connections.
    """
    limit = max(1, min(FLOW_LIMIT, descriptor_limit * 5 // 8))
    return limit, max(1, limit * 4 // 5)


class UdpStatistics:
    """What one UDP service port has done so far; ``active`` is what it is doing.

    ``accepted`` counts flows opened. ``unserved`` counts datagrams of clients that no endpoint could be found for,
    ``unsent`` those that the kernel would not send, in either direction. ``moved`` counts flows that went to another
    endpoint, ``dial_failures`` refusals of endpoints, ``evicted`` flows that made room for others.
    """

    __slots__ = (
        "_dropped",
        "_socket",
        "accepted",
        "active",
        "bytes_down",
        "bytes_up",
        "datagrams_down",
        "datagrams_up",
        "dial_failures",
        "evicted",
        "moved",
        "unsent",
        "unserved",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.active = 0
        self.unserved = 0
        self.unsent = 0
        self.dial_failures = 0
        self.moved = 0
        self.evicted = 0
        self.datagrams_up = 0
        self.datagrams_down = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._dropped = 0
        self._socket: SocketType | None = None

    @property
    def dropped(self) -> int:
        """Datagrams that the kernel dropped because a buffer was full; those from endpoints as of their flow's end."""
        return self._dropped + (dropped(self._socket) if self._socket is not None else 0)

    def watch(self, sock: SocketType | None) -> None:
        """Count what the kernel drops at a socket from now on; None ends that and keeps the figure."""
        self._dropped = self.dropped
        self._socket = sock

    def add_dropped(self, count: int) -> None:
        self._dropped += count


class DatagramPoller(Poller):
    """A poller that calls `after` when a batch of events has been handled.

    It does not ask whether a socket is writable: the kernel would say so once for every datagram that has left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, after: Callable[[], None]) -> None:
        super().__init__(loop)
        self._after = after

    def add(self, descriptor: int, handler: Handler, owner: Owner) -> None:
        """Watch a socket for datagrams and errors; its present state is reported at once."""
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)
        self._handlers[descriptor] = (handler, owner)

    def close(self, sock: SocketType) -> None:
        """Stop watching a socket and close it at once, so that the next flow may have its descriptor.

        An event that is still to come for it finds nobody, or the descriptor's new owner, who finds nothing to read.
        """
        if self._handlers.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())
        sock.close()

    def add_level_triggered(self, descriptor: int, handler: Handler, owner: Owner) -> None:
        """Watch a socket whose handler may leave datagrams: it is called again as long as there are any.

        To be told once more costs less than a read that finds nothing.
        """
        self._epoll.register(descriptor, select.EPOLLIN)
        self._handlers[descriptor] = (handler, owner)

    def _handle(self, batch: list[tuple[int, int]]) -> None:
        super()._handle(batch)
        self._after()

    def _run_again(self) -> None:
        super()._run_again()
        self._after()


class UdpPlane:
    """What all UDP listeners of a process share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, budget: DescriptorBudget, options: UdpOptions) -> None:
        self.loop = loop
        self.poller = DatagramPoller(loop, self._flush)
        self.budget = budget
        self.options = options
        self.quota = FlowQuota[UdpFlow](options.flow_limit, options.flow_limit_per_listener)
        self.listeners: set[UdpListener] = set()
        self._own = OwnAddresses()
        self._boxes: dict[IPFamily, tuple[Inbox, Outbox]] = {}
        self._last_shortage = float("-inf")
        self.evicted = 0
        """Flows that have made room for others."""
        self.make_room_elsewhere: Callable[[], bool] = lambda: False
        """Has something else than a flow give its descriptors back, if flows have too few."""

    @property
    def active(self) -> int:
        """Flows now, of all listeners."""
        return self.quota.total

    @property
    def pending(self) -> int:
        """Flows whose client has asked within the last two seconds and waits: what a drain should wait for."""
        return sum(listener.pending for listener in self.listeners)

    def boxes(self, family: IPFamily) -> tuple[Inbox, Outbox]:
        """The room for datagrams that all listeners of a family share."""
        if family not in self._boxes:
            self._boxes[family] = Inbox(family), Outbox(family)
        return self._boxes[family]

    def add(self, listener: "UdpListener") -> None:
        """Take in a listener that is new."""
        self.listeners.add(listener)
        self._own.add(listener.name.family, listener.host, listener.port)

    def discard(self, listener: "UdpListener") -> None:
        """Forget a listener that is closed."""
        self.listeners.discard(listener)
        self._own.discard(listener.name.family, listener.port)

    def connect(self, endpoint: Endpoint) -> SocketType:
        """A socket for a flow to `endpoint`. Raises OSError, also where that is a listener of ours.

        A datagram would go round for ever.
        """
        if endpoint in self._own:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return start_flow(endpoint)

    def shut_down(self) -> None:
        """Close all listeners and let go of everything."""
        for listener in list(self.listeners):
            listener.close()
        self.poller.shut_down()

    def _flush(self) -> None:
        for _, outbox in self._boxes.values():
            outbox.flush()

    def make_room(self, listener: "UdpListener") -> bool:
        """Take a descriptor for another flow of `listener`, if need be that of the flow that was quiet for longest."""
        giver, reason = self.quota.full(listener.flows), "a limit of flows"
        if giver is None:
            if self.budget.take(1) or (self.make_room_elsewhere() and self.budget.take(1)):
                return True
            giver, reason = self.quota.giver(listener.flows), "the limit of open files"
        self.note_shortage(listener, reason)
        return self._evict_from(giver) and self.budget.take(1)

    def evict(self) -> bool:
        """End the quietest flow of the listener that has most, for others' sake; False if there is no flow."""
        return self._evict_from(self.quota.largest)

    def _evict_from(self, table: "FlowTable[UdpFlow] | None") -> bool:
        oldest = table.oldest if table is not None else None
        if oldest is None:
            return False
        oldest.listener.statistics.evicted += 1
        self.evicted += 1
        oldest.close()
        return True

    def note_shortage(self, listener: "UdpListener", reason: str) -> None:
        """Log that `listener` cannot have another flow for nothing. Once for all that come within a minute."""
        now = self.loop.time()
        if now - self._last_shortage > _QUIET_SECONDS:
            log.warning(
                "Out of UDP flows: those that have been quiet for longest make room for new clients",
                reason=reason,
                service_port=str(listener.name),
                its_flows=len(listener.flows),
                all_flows=self.quota.total,
            )
        self._last_shortage = now


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

    def __init__(self, listener: "UdpListener", client: bytes, address: str, addressee: bytes, now: float) -> None:
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
        balancer = listener.balancer
        while len(self.tried) < TRIES:
            endpoint = balancer.pick(self.address, now, self.tried)
            if endpoint is None or endpoint in self.tried:
                break
            self.tried += (endpoint,)
            try:
                sock = listener.plane.connect(endpoint)
            except OSError as error:
                if is_shortage(error) or isinstance(error, BlockingIOError):  # EAGAIN: there is no local port left
                    listener.plane.note_shortage(listener, "the kernel gives no socket or port")
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
            listener.plane.poller.add_level_triggered(self._descriptor, self._on_event, self)
            return True
        balancer.forget(self.address)
        return False

    def move(self, now: float) -> bool:
        """The endpoint refuses: go to the next with the datagram that it left unanswered.

        False if there is no other. The flow then stays, for an endpoint may come back, and its datagram is lost.
        """
        self._statistics.dial_failures += 1
        if self.endpoint is not None:
            self.listener.balancer.suspect(self.endpoint, now)
            if self.endpoint not in self.tried:
                self.tried += (self.endpoint,)
        unanswered = self.unanswered
        if not self.dial(now):
            self.tried = ()
            self.unanswered = None
            return False
        self._statistics.moved += 1
        if unanswered is not None and unanswered is not _LARGE:
            try:
                self.send(unanswered)
            except OSError:
                self._statistics.unsent += 1
        return True

    def close(self) -> None:
        """End the flow. What its endpoint still answers is lost."""
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
            self.listener.plane.poller.close(sock)

    def _on_event(self, _events: int) -> None:
        """Take answers in. A question mostly has one; where more come than were asked for, several are read at once."""
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
        """Go elsewhere if the endpoint cannot be reached; what else is wrong may pass."""
        if number in _UNREACHABLE:
            self.move(self.listener.now())


class UdpListener:
    """Takes clients' datagrams to endpoints and answers back, each from the address and port that was written to.

    Every client has a flow of its own: its address and port and the local address it wrote to. Until the first
    snapshot datagrams wait in the kernel's buffer: the rules of an earlier process may lead here already.
    """

    def __init__(
        self,
        plane: UdpPlane,
        name: ListenerName,
        sock: DatagramSocket,
        balancer: Balancer,
        statistics: UdpStatistics,
    ) -> None:
        self.plane = plane
        self.name = name
        self.balancer = balancer
        self.statistics = statistics
        self.host = sock.getsockname()[0]
        self.port = sock.port
        self.descriptor = sock.fileno()
        self.now = plane.loop.time
        self._inbox, self.outbox = plane.boxes(sock.family_name)
        self.flows = FlowTable[UdpFlow](idle_limits(plane.options.udp_timeout))
        self._socket = sock
        self._endpoints: frozenset[Endpoint] = frozenset()
        self._verdict: Verdict | None = None
        self._wanted = Verdict.REJECT
        self._retry: asyncio.TimerHandle | None = None
        self._watched = False
        self._lagging = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        statistics.watch(sock)
        plane.add(self)

    @property
    def active(self) -> int:
        """Flows now."""
        return len(self.flows)

    @property
    def pending(self) -> int:
        """Flows whose client has asked within the last two seconds and waits for the answer."""
        return sum(flow.unanswered is not None for flow in self.flows.since(self.now() - PENDING_SECONDS))

    def follow(self, snapshot: Snapshot) -> None:
        """Treat clients as the snapshot says; the balancer knows it already.

        A flow whose endpoint is gone moves with its next datagram, so that answers under way still arrive. A flow to
        an endpoint that the snapshot does not know, or of a listener that is not to serve, ends at once.
        """
        endpoints = frozenset(snapshot.endpoints if snapshot.verdict is Verdict.SERVE else ())
        gone, self._endpoints = self._endpoints - endpoints, endpoints
        limits = idle_limits(self.plane.options.udp_timeout if snapshot.udp_timeout is None else snapshot.udp_timeout)
        if limits != self.flows.limits:
            self.flows.limit(limits, self.now())
            self._disarm()
            self._arm()
        if snapshot.verdict is not Verdict.SERVE:
            self._close_flows()
        elif snapshot.known is not None:
            known = frozenset(snapshot.known)
            for flow in [flow for flow in self.flows if flow.endpoint not in known]:
                flow.close()
        if gone:
            self.flows.reconsider()
        self._wanted = snapshot.verdict
        if self._retry is None:
            self._switch()

    def close(self) -> None:
        """Stop listening, and end all flows: they have no other socket for their answers."""
        if not self._closed:
            self._closed = True
            self.plane.discard(self)
            self.outbox.flush()
            self._close_flows()
            self._disarm()
            if self._retry is not None:
                self._retry.cancel()
            self.statistics.watch(None)
            self.plane.budget.give_port()
            self.plane.poller.close(self._socket)

    def abort(self) -> None:
        """Receiving has failed: go on after a pause. For the poller."""
        if not self._closed:
            self.plane.loop.call_later(_RETRY_SECONDS, self._resume)

    def closed(self, flow: UdpFlow) -> None:
        """Account for a flow that has ended. For flows."""
        if self.flows.discard(flow):
            self.plane.quota.remove(self.flows)
            self.plane.budget.give(1)
            self.statistics.active -= 1

    def sent(self, count: int, size: int, refused: int) -> None:
        """Account for answers that went to clients, or that the kernel did not take. For the outbox."""
        statistics = self.statistics
        statistics.datagrams_down += count
        statistics.bytes_down += size
        statistics.unsent += refused

    def note_reply(self, flow: UdpFlow, now: float) -> None:
        """Note that an answer came. For flows."""
        reconsider = flow.due == float("-inf")
        self.flows.touch(flow, now)
        if reconsider:
            flow.due = float("-inf")  # that is for the client's next datagram

    def _on_event(self, events: int) -> None:
        if not events & READABLE:
            return
        for _ in range(_BATCHES_PER_TURN):
            if self._closed:
                return
            count = receive_batch(self.descriptor, self._inbox.headers, BATCH, 0, None)
            if count < 0:
                self._survive(last_error())
                return
            if self._endpoints:
                self._dispatch(count)
            else:
                self.statistics.unserved += count
            if count < BATCH:
                return
        self.plane.poller.again(self._on_event, self)

    def _dispatch(self, count: int) -> None:
        inbox = self._inbox
        memory = inbox.memory
        flows = self.flows.by_client
        now = self.now()
        sent = size_sent = 0
        for size, client, start in zip(inbox.sizes[:count].tolist(), inbox.clients, inbox.starts, strict=False):
            try:
                flow = flows.get(memory[client])
                if flow is None or now >= flow.due:
                    flow = self._review(flow, memory[client], start, now)
                    if flow is None:
                        self.statistics.unserved += 1
                        continue
                payload: bytes | memoryview
                if size <= KEPT_BYTES:
                    payload = kept = memory[start : start + size]
                else:
                    payload, kept = inbox.view[start : start + size], _LARGE
                try:
                    flow.send(payload)
                except OSError as error:
                    if not self._send_elsewhere(flow, payload, error, now):
                        self.statistics.unsent += 1
                        continue
            except Exception as error:  # noqa: BLE001 -- one client's bug must not cost the others their datagrams
                self._give_up(memory[client], error)
                continue
            flow.unanswered = kept
            sent += 1
            size_sent += size
        self.statistics.datagrams_up += sent
        self.statistics.bytes_up += size_sent

    def _give_up(self, client: bytes, error: Exception) -> None:
        """Drop a client's datagram, and its flow, which a new one may replace."""
        self.statistics.unserved += 1
        flow = self.flows.by_client.get(client)
        if flow is None:
            self.plane.poller.failures.note(error)
        else:
            self.plane.poller.failed(flow, error)

    def _review(self, flow: UdpFlow | None, client: bytes, start: int, now: float) -> UdpFlow | None:
        """A client's first datagram, or the first for some time: its flow, or None if nobody can serve it."""
        if flow is None:
            return self._open(client, self._inbox.starts.index(start), now)
        if flow.endpoint not in self._endpoints:
            flow.tried, flow.unanswered = (), None
            if not flow.dial(now):
                flow.close()
                return None
            self.statistics.moved += 1
        if flow.answered and not flow.stream and now - flow.opened >= STREAM_AFTER:
            self.flows.promote(flow, now)
        else:
            self.flows.touch(flow, now)
        return flow

    def _open(self, client: bytes, place: int, now: float) -> UdpFlow | None:
        if not self.plane.make_room(self):
            return None
        flow = None
        try:
            flow = self._dialled(client, place, now)
        finally:
            if flow is None:
                self.plane.budget.give(1)
        if flow is None:
            return None
        self.flows.add(flow, now)
        self.plane.quota.add(self.flows)
        self.statistics.accepted += 1
        self.statistics.active += 1
        self._arm()
        return flow

    def _dialled(self, client: bytes, place: int, now: float) -> UdpFlow | None:
        flow = UdpFlow(self, client, self._inbox.address(place), self._inbox.addressee(place), now)
        try:
            return flow if flow.dial(now) else None
        except BaseException:
            flow.close()
            raise

    def _send_elsewhere(self, flow: UdpFlow, payload: bytes | memoryview, error: OSError, now: float) -> bool:
        """Whether a datagram that send(2) refused has been sent after all. The error may be an earlier one's."""
        number = error.errno
        while number in _UNREACHABLE:
            moved = flow.move(now)
            try:
                flow.send(payload)
            except OSError as again:
                number = again.errno
            else:
                return True
            if not moved:
                break
        return False

    def _close_flows(self) -> None:
        for flow in list(self.flows):
            flow.close()

    def _switch(self) -> None:
        """Have the kernel refuse datagrams, or let it bring them, as is wanted now."""
        self._retry = None
        if self._wanted is self._verdict:
            return
        before, verdict = self._verdict, self._wanted
        try:
            if not self._watched:
                self.plane.poller.add(self.descriptor, self._on_event, self)
                self._watched = True
            if verdict is Verdict.REJECT:
                self._socket.refuse()
            elif before is Verdict.REJECT:
                self.statistics.watch(None)
                self._socket.admit()
                self.statistics.watch(self._socket)
                self.plane.poller.add(self.descriptor, self._on_event, self)
        except OSError as error:
            self._verdict = before or Verdict.SERVE
            if not self._lagging:
                log.error(
                    "A UDP listener does not follow yet",
                    service_port=str(self.name),
                    verdict=verdict,
                    reason=error.strerror,
                )
            self._lagging = True
            self._retry = self.plane.loop.call_later(_RETRY_SECONDS, self._switch)
        else:
            self._verdict = verdict
            self._lagging = False

    def _arm(self) -> None:
        if self._timer is None:
            deadline = self.flows.next_deadline
            if deadline is not None:
                # A grain later, so that one timer ends all flows of that time.
                self._timer = self.plane.loop.call_at(deadline + self.flows.limits.grain, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        for flow in self.flows.expired(self.now()):
            try:
                flow.close()
            except Exception as error:  # noqa: BLE001 -- the others' time is over, too
                self.plane.poller.failures.note(error)
        self._arm()

    def _survive(self, number: int) -> None:
        if number != errno.EAGAIN:
            log.error("Receiving pauses", service_port=str(self.name), reason=OSError(number).strerror)
            self.plane.loop.call_later(_RETRY_SECONDS, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self.plane.poller.again(self._on_event, self)
