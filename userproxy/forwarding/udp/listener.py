"""A UDP listener: takes clients' datagrams to endpoints and the answers back."""

import asyncio
import errno
from collections.abc import Iterator
from typing import Final

import structlog

from userproxy.forwarding.holding.datagrams import HeldDatagram, HeldDatagrams
from userproxy.forwarding.limits.flows import FlowLimit
from userproxy.forwarding.observation.reasons import ENDPOINT_GONE
from userproxy.forwarding.observation.recorder import Portal
from userproxy.forwarding.poller import DATAGRAMS, READABLE
from userproxy.forwarding.udp.datagrams import BATCH, last_error, receive_batch
from userproxy.forwarding.udp.flow import LARGE, UNREACHABLE, UdpFlow
from userproxy.forwarding.udp.flows import FlowTable
from userproxy.forwarding.udp.groups.further import FurtherSockets
from userproxy.forwarding.udp.idle import STREAM_AFTER, IdleTimer, idle_limits
from userproxy.forwarding.udp.losses import Losses
from userproxy.forwarding.udp.plane import UdpPlane
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.forwarding.udp.sources.flow_sources import FlowSources
from userproxy.forwarding.udp.sources.source_trial import AGAIN_SECONDS, Pauses
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.forwarding.udp.surroundings import Chooser, FlowFaults
from userproxy.model import Endpoint, ListenerName, Snapshot, Verdict
from userproxy.model.reports import ChangeKind, Outcome
from userproxy.routing.balancer import Balancer

log = structlog.get_logger()

KEPT_BYTES: Final = 2048
"""Up to this size a flow's unanswered datagram is kept, to be sent again if its endpoint refuses it."""

PENDING_SECONDS: Final = 2.0
"""How long a drain waits for the answer to a client's datagram."""

_BATCHES_PER_TURN: Final = 4
_RETRY_SECONDS: Final = 1.0


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
        portal: Portal = None,
    ) -> None:
        """`portal` is what its clients write to, where that is known from the beginning; else snapshots may tell."""
        self.plane = plane
        self.name = name
        self.portal = portal
        self._follows_portal = portal is None
        self.losses = Losses()
        self.decisions = plane.recorder.ring(name.service_port)
        self.faults: FlowFaults | None = plane.faults.of_flows(name.service_port)
        self.balancer = balancer
        self.chooser: Chooser = balancer
        self.statistics = statistics
        self.host = sock.host
        self.port = sock.port
        self.descriptor = sock.fileno()
        self.now = plane.loop.time
        self._inbox, self.outbox = plane.boxes(sock.family_name)
        self.flows = FlowTable[UdpFlow](idle_limits(plane.options.udp_timeout))
        self._idle_timer = IdleTimer(plane.loop, self.flows, UdpFlow.close, plane.poller.failures.note)
        self._socket = sock
        self.further: FurtherSockets | None = None
        """Sockets that it reads besides its own, if there are any."""
        self._endpoints: frozenset[Endpoint] = frozenset()
        self._sources: FlowSources | None = None
        self._limit: FlowLimit | None = None
        """How many flows its service port may have, if that is limited."""
        self._held: HeldDatagrams | None = None
        """Made when datagrams are first to be held."""
        self.pauses = Pauses()
        self._verdict: Verdict | None = None
        self._wanted = Verdict.REJECT
        self._retry: asyncio.TimerHandle | None = None
        self._watched = False
        self._lagging = False
        self._closed = False
        statistics.watch(sock)
        plane.add(self)
        self._opened()

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

        A flow whose endpoint is gone moves with its next datagram, so that answers under way still arrive; one whose
        endpoint is drained stays. A flow to
        an endpoint that the snapshot does not know, or of a listener that is not to serve, ends at once.
        """
        endpoints = frozenset(snapshot.endpoints if snapshot.verdict is Verdict.SERVE else ())
        staying = endpoints.union(snapshot.draining) if endpoints else endpoints
        gone, self._endpoints = self._endpoints - staying, staying
        if self._follows_portal:
            self.portal = None if snapshot.portal is None else (snapshot.portal.ip, snapshot.portal.port)
        self.statistics.endpoints.follow(endpoints)
        self.balancer.watch(self.statistics.endpoints)
        self._sources = FlowSources.of(self.plane.client_addresses, snapshot)
        limits = idle_limits(self.plane.options.udp_timeout if snapshot.udp_timeout is None else snapshot.udp_timeout)
        if limits != self.flows.limits:
            self.flows.limit(limits, self.now())
            self._idle_timer.restart()
        if snapshot.verdict is not Verdict.SERVE:
            self._close_flows()
        elif snapshot.known is not None:
            known = frozenset(snapshot.known)
            for flow in [flow for flow in self.flows if flow.endpoint not in known]:
                flow.close(ENDPOINT_GONE, Outcome.RESET)
        if gone:
            self.flows.reconsider()
            self.pauses.clear()
        self._wanted = snapshot.verdict
        if self._retry is None:
            self._switch()
        if self._held is not None or snapshot.hold is not None:
            self._hold(None if endpoints else snapshot.hold)
        most = None if snapshot.limits is None else snapshot.limits.connections
        if self._limit is not None or most is not None:
            self._limit_flows(most)

    @property
    def has_answered(self) -> bool:
        """Whether any of its endpoints ever has."""
        return bool(self.statistics.datagrams_down)

    def sources_of(self, _client: str) -> FlowSources | None:
        """Whose address endpoints are to see of a client; None for the node's."""
        return self._sources

    def close(self) -> None:
        """Stop listening, and end all flows: they have no other socket for their answers."""
        if not self._closed:
            self._closed = True
            self.plane.discard(self)
            self._limit_flows(None)
            self._let_go()
            self.outbox.flush()
            self._close_flows()
            if self._held is not None:
                self._held.clear()
            self._idle_timer.stop()
            if self._retry is not None:
                self._retry.cancel()
            self.statistics.unwatch(self._socket)
            self.plane.budget.give_port()
            self.plane.poller.close_at_once(self._socket)
            self._leave_further()

    def abort(self) -> None:
        """A handler has raised an exception: go on after a pause. For the poller."""
        if not self._closed:
            self._pause()

    def closed(self, flow: UdpFlow) -> None:
        """A flow has ended. For flows."""
        if self.faults is not None:
            self.faults.ended(flow)
        if self.flows.discard(flow):
            self.plane.quota.remove(self.flows)
            self.plane.budget.give(1)
            self.statistics.active -= 1
            if self._limit is not None:
                self._limit.write()

    def sent(self, count: int, size: int, refused: int) -> None:
        """Account for answers that went to clients, or that the kernel did not take. For the outbox."""
        statistics = self.statistics
        statistics.datagrams_down += count
        statistics.bytes_down += size
        statistics.unsent += refused

    def adopted(self) -> None:
        """Begin to end flows that are quiet: all have been adopted."""
        self.flows.in_order()
        if self._limit is not None:
            self._limit.write()
        self._idle_timer.start()

    @property
    def socket(self) -> DatagramSocket:
        """What clients' datagrams come to."""
        return self._socket

    @property
    def verdict(self) -> Verdict | None:
        """How the socket treats clients now; None before the first snapshot."""
        return self._verdict

    def watch_as(self, verdict: Verdict | None) -> None:
        """Go on with a socket of another process, which treats clients by `verdict`."""
        self._verdict = verdict
        if verdict is not None and not self._watched:
            self._watch()

    def forsake(self) -> None:
        """Close our copies of its sockets: they are another process's."""
        self._closed = True
        self._idle_timer.stop()
        if self._held is not None:
            self._held.clear()
        if self._retry is not None:
            self._retry.cancel()
        for flow in self.flows:
            flow.forsake()
        self._socket.close()
        if self.further is not None:
            self.further.forsake()

    def note_reply(self, flow: UdpFlow, now: float) -> None:
        """Note that an answer came. For flows."""
        reconsider = flow.due == float("-inf")
        self.flows.touch(flow, now)
        if reconsider:
            flow.due = float("-inf")  # that is for the client's next datagram

    def note_shortage(self, reason: str) -> None:
        """Log that there is no room for another flow. For flows."""
        self.plane.note_shortage(self, reason)

    def _opened(self) -> None:
        self.plane.listener_addresses.add(self.name.family, self.host, self.port)

    def _let_go(self) -> None:
        self.plane.listener_addresses.discard(self.name.family, self.port)

    def _watch(self) -> None:
        """Read from now on. Raises OSError."""
        self.plane.poller.add(self.descriptor, DATAGRAMS, self.read, self)
        self._watched = True
        if self.further is not None:
            self.further.watch()

    def _leave_further(self) -> None:
        further, self.further = self.further, None
        if further is not None:
            further.close()

    def read(self, events: int, descriptor: int = -1) -> None:
        """Take what there is at a socket, its own if none is named. For the poller."""
        if not events & READABLE:
            return
        if descriptor < 0:
            descriptor = self.descriptor
        for _ in range(_BATCHES_PER_TURN):
            if self._closed:
                return
            count = receive_batch(descriptor, self._inbox.headers, BATCH, 0, None)
            if count < 0:
                self._survive(last_error())
                return
            if self._endpoints:
                self._dispatch(count)
            else:
                self._drop(count)
            if count < BATCH:
                return
        self.plane.poller.again(self.read, self)

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
                    payload, kept = inbox.view[start : start + size], LARGE
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
            flow.bytes_up += size
            sent += 1
            size_sent += size
        self.statistics.datagrams_up += sent
        self.statistics.bytes_up += size_sent

    def _drop(self, count: int) -> None:
        """Take notice of a batch of datagrams that nobody may have."""
        now = self.now()
        numbers = range(count) if self._held is None else self._held.keep(range(count), now)
        self.statistics.unserved += len(numbers)
        for number in numbers:
            if self.losses.is_full(now):
                return
            self._note_lost(number, "no endpoint may serve it", now)

    def _hold(self, seconds: float | None) -> None:
        if self._held is None:
            places = self.plane.places.of(self.name.service_port)
            call = (self.statistics, self._deliver_held, self._lose_held)
            self._held = HeldDatagrams(self.plane.loop, self._inbox, places, *call)
        self._held.follow(seconds)

    def held_datagrams(self) -> Iterator[tuple[tuple[str, int], HeldDatagram]]:
        """What is held for want of an endpoint, and of whom. It stays held."""
        return iter(()) if self._held is None else self._held.all()

    def adopt_held(self, held: HeldDatagram) -> None:
        """Hold what another process has held; where nothing is to be held it is lost."""
        if self._held is None or not self._held.adopt(held):
            self.statistics.unserved += 1

    def _deliver_held(self) -> None:
        if self._endpoints:
            self._dispatch(1)
        else:
            self._drop(1)

    def _lose_held(self, number: int, reason: str) -> None:
        self.statistics.unserved += 1
        self._note_lost(number, reason, self.now())

    def _note_lost(self, number: int, reason: str, now: float) -> None:
        """Note that a datagram of the inbox has come to nobody, unless enough was said of such just now."""
        inbox = self._inbox
        if self.losses.take(inbox.memory[inbox.clients[number]], now):
            peer = inbox.address(number)
            entry = (now, self.name, peer, self.portal, None, Outcome.DROPPED, reason, (), 0.0, 0, 0, None, 0)
            self.decisions.add(entry)

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
                flow.close(ENDPOINT_GONE, Outcome.RESET)
                return None
            flow.moved()
        elif flow.trial is not None:
            flow.trial.ask(now)
        if flow.answered and not flow.stream and now - flow.opened >= STREAM_AFTER:
            self.flows.promote(flow, now)
        else:
            self.flows.touch(flow, now)
        self._review_soon(flow, now)
        return flow

    def _review_soon(self, flow: UdpFlow, now: float) -> None:
        """While it is not known whether answers come back, see to it that a client who asks again is noticed."""
        if flow.trial is not None and not flow.trial.decided:
            flow.due = min(flow.due, now + AGAIN_SECONDS)

    def _limit_flows(self, most: int | None) -> None:
        if self._limit is not None:
            self._limit.leave(self.flows)
        self._limit = None if most is None else self.plane.flow_limits.of(self.name.service_port, most)
        if self._limit is not None:
            self._limit.join(self.flows)

    def _open(self, client: bytes, number: int, now: float) -> UdpFlow | None:
        limit = self._limit
        if limit is None:
            return self._opened_flow(client, number, now)
        if not limit.admits():
            self.statistics.unopened += 1
            self.statistics.limited += 1
            self._note_lost(number, limit.reason, now)
            return None
        try:
            return self._opened_flow(client, number, now)
        finally:
            limit.write()

    def _opened_flow(self, client: bytes, number: int, now: float) -> UdpFlow | None:
        if not self.plane.make_room(self):
            self.statistics.unopened += 1
            self._note_lost(number, "there is no room for another flow", now)
            return None
        flow = None
        try:
            flow = self._dialled(client, number, now)
        finally:
            if flow is None:
                self.plane.budget.give(1)
        if flow is None:
            return None
        self.flows.add(flow, now)
        self._review_soon(flow, now)
        self.plane.quota.add(self.flows)
        self.statistics.accepted += 1
        self.statistics.active += 1
        self._idle_timer.start()
        recorder = self.plane.recorder
        if recorder.connection_watches:
            recorder.tell_change(ChangeKind.ADDED, flow)
        return flow

    def _dialled(self, client: bytes, number: int, now: float) -> UdpFlow | None:
        flow = UdpFlow(self, client, self._inbox.address(number), self._inbox.addressee(number), now)
        try:
            if flow.dial(now):
                return flow
            self.statistics.unopened += 1
            flow.note_lost("no endpoint can be reached", now)
            return None
        except BaseException:
            flow.abort()
            raise

    def _send_elsewhere(self, flow: UdpFlow, payload: bytes | memoryview, error: OSError, now: float) -> bool:
        """Whether a datagram that send(2) refused has been sent after all. The error may be an earlier one's."""
        number = error.errno
        while True:
            if flow.escape(now, number):
                moved = True
            elif number in UNREACHABLE:
                moved = flow.move(now, number)
            else:
                return False
            try:
                flow.send(payload)
            except OSError as again:
                number = again.errno
            else:
                return True
            if not moved:
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
                self._watch()
            if verdict is Verdict.REJECT:
                self._leave_further()
                self._socket.refuse()
            elif before is Verdict.REJECT:
                self.statistics.unwatch(self._socket)
                self._socket.admit()
                self.statistics.watch(self._socket)
                self.plane.poller.add(self.descriptor, DATAGRAMS, self.read, self)
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

    def _survive(self, number: int) -> None:
        if number != errno.EAGAIN:
            log.error("Receiving pauses", service_port=str(self.name), reason=OSError(number).strerror)
            self._pause()

    def _pause(self) -> None:
        if self.further is not None:
            self.further.pause()
        self.plane.loop.call_later(_RETRY_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._closed:
            return
        self.plane.poller.again(self.read, self)
        if self.further is not None:
            try:
                self.further.watch()
            except OSError as error:
                self._survive(error.errno or 0)
