"""The clients of one UDP listener: each has a flow, which its datagrams go by."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final

from userproxy.forwarding.holding.datagrams import HeldDatagram
from userproxy.forwarding.limits.flows import FlowLimit
from userproxy.forwarding.observation.reasons import ENDPOINT_GONE
from userproxy.forwarding.observation.recorder import Portal
from userproxy.forwarding.udp.flow import LARGE, UNREACHABLE, UdpFlow
from userproxy.forwarding.udp.flows import FlowTable
from userproxy.forwarding.udp.idle import STREAM_AFTER, IdleTimer, idle_limits
from userproxy.forwarding.udp.listening.unserved import Unserved
from userproxy.forwarding.udp.losses import Losses
from userproxy.forwarding.udp.plane import UdpPlane
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.forwarding.udp.sources.flow_sources import FlowSources
from userproxy.forwarding.udp.sources.source_trial import AGAIN_SECONDS, Pauses
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.forwarding.udp.surroundings import Chooser, FlowFaults
from userproxy.model import Endpoint, ListenerName
from userproxy.model.reports import ChangeKind, Outcome
from userproxy.routing.balancer import Balancer

KEPT_BYTES: Final = 2048
"""Up to this size a flow's unanswered datagram is kept, to be sent again if its endpoint refuses it."""

PENDING_SECONDS: Final = 2.0
"""How long a drain waits for the answer to a client's datagram."""


class Clients(ABC):
    """Takes datagrams that a listener has received to endpoints, and the answers back.

    Every client has a flow of its own: its address and port and the local address it wrote to.
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
        """`portal` is what they write to, where that is known; answers leave by `sock`."""
        self.plane = plane
        self.name = name
        self.portal = portal
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
        self.inbox, self.outbox = plane.boxes(sock.family_name)
        self.flows = FlowTable[UdpFlow](idle_limits(plane.options.udp_timeout))
        self._idle_timer = IdleTimer(plane.loop, self.flows, UdpFlow.close, plane.poller.failures.note)
        self.endpoints: frozenset[Endpoint] = frozenset()
        """Those that its flows may have; empty where nobody is to be served."""
        self._sources: FlowSources | None = None
        self._limit: FlowLimit | None = None
        """How many flows its service port may have, if that is limited."""
        self._unserved = Unserved(self)
        self.pauses = Pauses()

    @abstractmethod
    def close(self) -> None:
        """Stop listening, and end all flows: they have no other socket for their answers."""

    @property
    def active(self) -> int:
        """Flows now."""
        return len(self.flows)

    @property
    def pending(self) -> int:
        """Flows whose client has asked within the last two seconds and waits for the answer."""
        return sum(flow.unanswered is not None for flow in self.flows.since(self.now() - PENDING_SECONDS))

    @property
    def has_answered(self) -> bool:
        """Whether any of its endpoints ever has."""
        return bool(self.statistics.datagrams_down)

    def sources_of(self, _client: str) -> FlowSources | None:
        """Whose address endpoints are to see of a client; None for the node's."""
        return self._sources

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

    def note_reply(self, flow: UdpFlow, now: float) -> None:
        """Note that an answer came. For flows."""
        reconsider = flow.due == float("-inf")
        self.flows.touch(flow, now)
        if reconsider:
            flow.due = float("-inf")  # that is for the client's next datagram

    def note_shortage(self, reason: str) -> None:
        """Log that there is no room for another flow. For flows."""
        self.plane.note_shortage(self, reason)

    def held_datagrams(self) -> Iterator[tuple[tuple[str, int], HeldDatagram]]:
        """What is held for want of an endpoint, and of whom. It stays held."""
        return self._unserved.held()

    def deliver(self, addresses: bytes, payload: bytes) -> None:
        """Serve a client from whom another process has received this, both as :meth:`Inbox.put` takes them."""
        self.inbox.put(addresses, payload)
        self._unserved.deliver()

    def adopt_held(self, held: HeldDatagram) -> None:
        """Hold what another process has held; where nothing is to be held it is lost."""
        self._unserved.adopt(held)

    def dispatch(self, count: int) -> None:
        """Have so many datagrams of the inbox go by their clients' flows, from the first one on."""
        inbox = self.inbox
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
            return self._open(client, self.inbox.starts.index(start), now)
        if flow.endpoint not in self.endpoints:
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
            self._unserved.note(number, limit.reason, now)
            return None
        try:
            return self._opened_flow(client, number, now)
        finally:
            limit.write()

    def _opened_flow(self, client: bytes, number: int, now: float) -> UdpFlow | None:
        if not self.plane.make_room(self):
            self.statistics.unopened += 1
            self._unserved.note(number, "there is no room for another flow", now)
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
        flow = UdpFlow(self, client, self.inbox.address(number), self.inbox.addressee(number), now)
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
