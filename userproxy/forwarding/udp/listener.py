"""A UDP listener: takes clients' datagrams to endpoints and the answers back."""

import asyncio
import errno
from collections.abc import Sequence
from typing import Final

import structlog

from userproxy.forwarding.observation.reasons import ENDPOINT_GONE
from userproxy.forwarding.observation.recorder import Portal
from userproxy.forwarding.poller import DATAGRAMS, READABLE
from userproxy.forwarding.udp.datagrams import BATCH, last_error, receive_batch
from userproxy.forwarding.udp.groups.further import FurtherSockets
from userproxy.forwarding.udp.idle import idle_limits
from userproxy.forwarding.udp.listening.clients import Clients
from userproxy.forwarding.udp.plane import UdpPlane
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.forwarding.udp.sources.flow_sources import FlowSources
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import ListenerName, Snapshot, Verdict
from userproxy.model.reports import Outcome
from userproxy.routing.balancer import Balancer

log = structlog.get_logger()

_BATCHES_PER_TURN: Final = 4
_RETRY_SECONDS: Final = 1.0


class UdpListener(Clients):
    """Takes clients' datagrams to endpoints and answers back, each from the address and port that was written to.

    Until the first snapshot datagrams wait in the kernel's buffer: the rules of an earlier process may lead here
    already.
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
        super().__init__(plane, name, sock, balancer, statistics, portal)
        self._follows_portal = portal is None
        self._socket = sock
        self.further: FurtherSockets | None = None
        """Sockets that it reads besides its own, if there are any."""
        self._verdict: Verdict | None = None
        self._wanted = Verdict.REJECT
        self._retry: asyncio.TimerHandle | None = None
        self._watched = False
        self._lagging = False
        self._closed = False
        statistics.watch(sock)
        plane.add(self)
        self._opened()

    def follow(self, snapshot: Snapshot) -> None:
        """Treat clients as the snapshot says; the balancer knows it already.

        A flow whose endpoint is gone moves with its next datagram, so that answers under way still arrive; one whose
        endpoint is drained stays. A flow to
        an endpoint that the snapshot does not know, or of a listener that is not to serve, ends at once.
        """
        endpoints = frozenset(snapshot.endpoints if snapshot.verdict is Verdict.SERVE else ())
        staying = endpoints.union(snapshot.draining) if endpoints else endpoints
        gone, self.endpoints = self.endpoints - staying, staying
        if self._follows_portal:
            self.portal = None if snapshot.portal is None else (snapshot.portal.ip, snapshot.portal.port)
        self.statistics.endpoints.follow(endpoints)
        self._watch_loads()
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
        if self._unserved.may_hold or snapshot.hold is not None:
            self._unserved.hold(None if endpoints else snapshot.hold)
        most = None if snapshot.limits is None else snapshot.limits.connections
        if self._limit is not None or most is not None:
            self._limit_flows(most)

    def close(self) -> None:
        """Stop listening, and end all flows: they have no other socket for their answers."""
        if not self._closed:
            self._closed = True
            self.plane.discard(self)
            self._limit_flows(None)
            self._let_go()
            self.outbox.flush()
            self._close_flows()
            self._unserved.clear()
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

    def read_also(self, descriptors: Sequence[int]) -> None:
        """Read these sockets of its group, too, and no other ones. Takes over descriptors. Raises OSError."""
        if self.further is None:
            self.further = FurtherSockets(self.plane.poller, self)
            if self._watched:
                self.further.watch()
        self.further.follow(descriptors)

    def leave_clients(self) -> None:
        """Read no more, because another process does. Flows go on to be answered."""
        self.plane.poller.forget(self._socket)
        if self.further is not None:
            self.further.forget()

    def forsake(self) -> None:
        """Close our copies of its sockets: they are another process's."""
        self._closed = True
        self._idle_timer.stop()
        self._unserved.clear()
        if self._retry is not None:
            self._retry.cancel()
        for flow in self.flows:
            flow.forsake()
        self.statistics.unwatch(self._socket)
        self._socket.close()
        if self.further is not None:
            self.further.forsake()

    def _watch_loads(self) -> None:
        """Have the balancer know what endpoints have to do."""
        self.balancer.watch(self.statistics.endpoints)

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
            count = receive_batch(descriptor, self.inbox.headers, BATCH, 0, None)
            if count < 0:
                self._survive(last_error())
                return
            self.take(count)
            if count < BATCH:
                return
        self.plane.poller.again(self.read, self)

    def take(self, count: int) -> None:
        """Serve those of whom so many datagrams of the inbox are, if anybody is served."""
        if self.endpoints:
            self.dispatch(count)
        else:
            self._unserved.drop(count)

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
