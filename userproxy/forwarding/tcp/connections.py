"""The connections of one TCP listener: each is first a dial to an endpoint, then a relay."""

from socket import SocketType
from typing import Final

import structlog

from userproxy.forwarding.client_addresses import Sources
from userproxy.forwarding.descriptors import PER_CONNECTION
from userproxy.forwarding.holding.clients import NO_ENDPOINT, HeldClients
from userproxy.forwarding.limits.idleness import IdleConnections
from userproxy.forwarding.observation.reasons import ENDPOINT_GONE, RESET_BY_ENDPOINT
from userproxy.forwarding.observation.recorder import Peer, Portal
from userproxy.forwarding.proxy_protocol.header import Address, ProxyHeader
from userproxy.forwarding.proxy_protocol.versions import encode
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.introductions import IntroducedDial
from userproxy.forwarding.tcp.keep_alive import SECONDS as KEEP_ALIVE_SECONDS
from userproxy.forwarding.tcp.plane import PortFaults, TcpPlane
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.relays.accounts import Accounts
from userproxy.forwarding.tcp.sockets import ip_and_port, reset_on_close
from userproxy.forwarding.tcp.states import DialState, RelayState
from userproxy.model import Endpoint, Limits, ListenerName, ProxyProtocol, Snapshot
from userproxy.model.reports import ChangeKind, DialFailure, Outcome
from userproxy.routing.balancer import Balancer
from userproxy.routing.source_ranges import BalancerRule

log = structlog.get_logger()


_IN_ORDER: Final = (Outcome.SERVED, "")


class Connections(Accounts):
    """The connections of the clients that a listener has accepted. They go on when the listener is closed."""

    __slots__ = (
        "__weakref__",
        "_accepts",
        "_balancer_rule",
        "_held",
        "_idle",
        "_limits",
        "_plane",
        "_sends",
        "_share",
        "_sources",
        "balancer",
        "faults",
        "holds",
        "is_looked_after",
    )

    def __init__(self, plane: TcpPlane, name: ListenerName, balancer: Balancer) -> None:
        super().__init__(plane.recorder, name)
        self._plane = plane
        self._share = plane.shares.of(name.service_port)
        self._accepts: ProxyProtocol | None = None
        self._sends: ProxyProtocol | None = None
        self._balancer_rule: BalancerRule | None = None
        self.faults: PortFaults | None = plane.faults.of(name.service_port)
        """Those that its connections may suffer; None for none."""
        self.balancer = balancer
        self._sources: Sources | None = None
        self._limits: Limits | None = None
        self._idle: IdleConnections | None = None
        self._held: HeldClients | None = None
        """Made when clients are first to be held."""
        self.holds = False
        """Whether they are to be held now."""
        self.is_looked_after = False
        """Whether those to come will have keep-alive."""

    def serve(self, client: SocketType, peer: Peer, portal: Portal = None) -> None:
        """Find an endpoint for a client who has been accepted, and relay. Two descriptors are taken for it already."""
        plane, statistics, address = self._plane, self.statistics, peer[0]
        recorder = plane.recorder
        if self._accepts is None or address not in plane.introductions.trusted:
            dial = Dial()
            dial.begin(plane.dialer, self, self.name, client, address)
            statistics.accepted += 1
        else:
            dial = self._dial_after_header(client, address, self._accepts)
        dial.id = recorder.last_id = recorder.last_id + 1
        dial.peer = peer
        dial.portal = portal
        clock = recorder.clock
        dial.opened = dial.began = clock()
        statistics.active += 1
        self.members[dial.id] = dial
        self._share.add(address, dial)
        if not self.is_looked_after:
            plane.keep_alive.look_after(self)
        if not plane.active:
            plane.idle.clear()
        plane.active += 1
        if recorder.connection_watches and not isinstance(dial, IntroducedDial):
            recorder.tell_change(ChangeKind.ADDED, dial)
        if self._sources is not None:
            dial.keep_client_address(self._sources)
        dial.start()

    def adopt_relay(self, state: RelayState, client: SocketType, backend: SocketType) -> Relay:
        """Take in an established connection of another process, as it was when `state` was made.

        Its descriptors count as taken. It is not watched yet.
        """
        dial = self._dial(client, state.dial.peer[0])
        dial.restore(state.dial)
        dial.closed = True
        endpoint = dial.tried[-1]
        relay = Relay()
        relay.begin(self._plane.relays, client, backend, endpoint, self)
        relay.id, relay.dial = dial.id, dial
        relay.counters = counters = self.statistics.endpoints[endpoint]
        counters.active += 1
        dial.relay = relay
        relay.keep_alive()
        self._adopted(dial, relay)
        if self._idle is not None:
            self._idle.watch(relay)
        return relay

    def adopt_dial(self, state: DialState, client: SocketType) -> Dial:
        """Take in a connection of another process that has no endpoint yet. Its descriptors count as taken."""
        if state.awaits is not None:
            dial: Dial = self._dial_after_header(client, state.peer[0], state.awaits)
        else:
            dial = self._dial(client, state.peer[0])
            if self._sources is not None:
                dial.keep_client_address(self._sources, introduced=state.introduced)
        dial.restore(state)
        self._adopted(dial, dial)
        if not self.is_looked_after:
            self._plane.keep_alive.look_after(self)
        return dial

    def _adopted(self, dial: Dial, member: Dial | Relay) -> None:
        plane = self._plane
        plane.budget.adopt(PER_CONNECTION)
        self.statistics.active += 1
        self.members[member.id] = member
        self._share.add(dial.address, dial)
        if not plane.active:
            plane.idle.clear()
        plane.active += 1

    def forget(self, relay: Relay) -> None:
        """Take notice that an adopted connection has ended in the other process, where that was counted."""
        relay.counters.active -= 1
        if self._idle is not None:
            self._idle.forget(relay)
        relay.vanish()
        self._ended(relay.dial, relay)

    def _dial(self, client: SocketType, address: str) -> Dial:
        plane = self._plane
        dial = Dial()
        dial.begin(plane.dialer, self, self.name, client, address)
        return dial

    def follow(self, snapshot: Snapshot) -> None:
        """Take notice of the endpoints that new clients have, and of whose address they are to see.

        Connections to those that are not known are ended.
        """
        self._sources = self._plane.client_addresses.sources(snapshot)
        self.statistics.endpoints.follow(snapshot.endpoints)
        self.balancer.watch(self.statistics.endpoints)
        self._sends, self._accepts = snapshot.sends_proxy, snapshot.accepts_proxy
        access = snapshot.balancer_access
        self._balancer_rule = None if access is None else BalancerRule(access)
        if snapshot.limits != self._limits or (snapshot.limits is None and self._share.gate is not None):
            self._limit(snapshot.limits)
        if self._held is not None or snapshot.hold is not None:
            self._hold(snapshot.hold)
        if snapshot.known is not None:
            self.end_unknown(frozenset(snapshot.known))

    def left(self) -> None:
        """Take notice that the listener is closed. Connections go on."""
        self.statistics.endpoints.follow(())
        if self._held is not None:
            self._held.follow(None)
            self.holds = False
        if self.members:
            self._plane.without_listener.add(self)

    def _hold(self, seconds: float | None) -> None:
        plane = self._plane
        if self._held is None:
            places, statistics = plane.places.of(self.name.service_port), self.statistics
            clock = plane.recorder.clock
            self._held = HeldClients(plane.loop, plane.poller, clock, places, statistics, self._refuse_unserved)
        self._held.follow(seconds)
        self.holds = seconds is not None

    def _limit(self, limits: Limits | None) -> None:
        plane, self._limits = self._plane, limits
        plane.gates.follow(self._share, limits)
        if self._idle is not None:
            self._idle.close()
        seconds = None if limits is None else limits.idle
        self._idle = None if seconds is None else IdleConnections(plane.loop, seconds, plane.poller)
        if self._idle is not None:
            self._idle.watch_all(self.members.values())

    def end_unknown(self, known: frozenset[Endpoint]) -> None:
        """Reset the connections to endpoints that are not known; dials to them go on to another one."""
        for connection in [each for each in self.members.values() if each.endpoint not in known]:
            try:
                if isinstance(connection, Relay):
                    connection.abort(ENDPOINT_GONE)
                else:
                    connection.turn_away()
            except Exception as error:  # noqa: BLE001 -- the snapshot counts for the others, too
                self._plane.poller.failed(connection, error)

    def reset(self) -> int:
        """End all connections with a RST; returns how many they were."""
        connections = list(self.members.values())
        for connection in connections:
            connection.abort("userproxy stops")
        return len(connections)

    def _dial_after_header(self, client: SocketType, address: str, version: ProxyProtocol) -> IntroducedDial:
        plane = self._plane
        dial = IntroducedDial()
        dial.begin(plane.dialer, self, self.name, client, address)
        dial.expect(version, plane.introductions, self._introduced, self._turned_away)
        return dial

    def _introduced(self, dial: IntroducedDial, header: ProxyHeader) -> None:
        """Serve a client whose PROXY header has been read: from now on it is whom the header names."""
        if header.client is not None and header.portal is not None:
            client, dialled = header.client[0], (header.portal[0], (_address(dial.portal) or header.portal)[0])
            self._share.remove(dial.address, dial)
            dial.address, dial.peer, dial.portal = client, header.client, header.portal
            self._share.add(client, dial)
            if self._balancer_rule is not None and not self._balancer_rule.admits(client, dialled):
                dial.refuse(Outcome.REFUSED, f"its address, told by {dial.proxy}, is in no loadBalancerSourceRanges")
                return
        self.statistics.accepted += 1
        recorder = self._plane.recorder
        dial.began = recorder.clock()
        if recorder.connection_watches:
            recorder.tell_change(ChangeKind.ADDED, dial)
        if self._sources is not None:
            dial.keep_client_address(self._sources)
        dial.start()

    def _turned_away(self, dial: IntroducedDial, outcome: Outcome, reason: str) -> None:
        """End a client who has sent no good PROXY header, or is not let in by its address there."""
        self.statistics.refused += 1
        log.debug("Client refused", v=2, service_port=str(dial.name), proxy=dial.proxy, reason=reason)
        reset_on_close(dial.client)
        self._plane.poller.close(dial.client)
        self._decisions.add(self._decision(dial, self._plane.recorder.clock(), outcome, reason))
        self._ended(dial, dial, is_known=False)

    def connected(self, dial: Dial, backend: SocketType, events: int) -> None:
        """A dial has come to its end: relay."""
        plane, statistics, endpoint = self._plane, self.statistics, dial.tried[-1]
        recorder = plane.recorder
        relay = Relay()
        relay.begin(plane.relays, dial.client, backend, endpoint, self)
        now = plane.poller.now or recorder.clock()
        relay.id = dial.id
        relay.dial = dial
        seconds = relay.dial_seconds = now - dial.opened
        if seconds > KEEP_ALIVE_SECONDS:
            relay.keep_alive()
        relay.counters = counters = statistics.endpoints[endpoint]
        counters.connected(now - dial.began)
        self.members[dial.id] = dial.relay = relay
        if dial.failed:
            self._count_failures(dial)
            statistics.retried += 1
            self._decisions.add(self._decision(dial, now, Outcome.RETRIED, dial.failed[-1][1]))
        if recorder.connection_watches:
            recorder.tell_change(ChangeKind.MODIFIED, relay)
        try:
            header = b"" if self._sends is None else encode(self._sends, dial.peer, _address(dial.portal))
            if self.faults is None:
                relay.start(events, header)
            else:
                self.faults.start(relay, events, header)
            if self._idle is not None:
                self._idle.watch(relay)
        except Exception as error:  # noqa: BLE001 -- the dial has ended well, so this is not for whoever called it
            plane.poller.failed(relay, error)

    def unserved(self, dial: Dial) -> None:
        """No endpoint has accepted a client: hold him, or end him."""
        reason = NO_ENDPOINT
        if self._held is not None and not dial.given_up:
            reason = self._held.take(dial)
        if reason:
            self._refuse_unserved(dial, reason)

    def _refuse_unserved(self, dial: Dial, reason: str) -> None:
        """End a client whom nobody serves; `reason` is for where no endpoint has failed."""
        self._count_failures(dial)
        self.statistics.unserved += 1
        log.debug("Client not served: no backend answered", v=1, service_port=str(dial.name), tried=dial.failures)
        reset_on_close(dial.client)
        self._plane.poller.close(dial.client)
        if dial.given_up:
            outcome, reason = Outcome.RESET, dial.given_up
        elif dial.failed and all(kind is DialFailure.TIMED_OUT for _, _, kind in dial.failed):
            outcome, reason = Outcome.TIMED_OUT, "no endpoint has answered in time"
        else:
            outcome, reason = Outcome.REFUSED, "no endpoint has accepted" if dial.failed else reason
        self._decisions.add(self._decision(dial, self._plane.recorder.clock(), outcome, reason))
        self._ended(dial, dial)

    def relayed(self, relay: Relay) -> None:
        """A connection has ended: count it, and note how that came."""
        plane, statistics, dial, counters = self._plane, self.statistics, relay.dial, relay.counters
        if self._idle is not None:
            self._idle.forget(relay)
        up, down = relay.count_up, relay.count_down
        new_up, new_down = up - relay.settled_up, down - relay.settled_down
        now = plane.poller.now or plane.recorder.clock()
        seconds = now - dial.opened
        counters.active -= 1
        counters.bytes_up += new_up
        counters.bytes_down += new_down
        statistics.bytes_up += new_up
        statistics.bytes_down += new_down
        statistics.ended += 1
        statistics.seconds += seconds
        cut = relay.cut
        outcome, reason = _IN_ORDER if cut is None else self._cut(relay, cut, down)
        if self.faults is not None:
            reason = self.faults.reason(relay.id, reason)
        entry = (
            now,
            dial.name,
            dial.peer,
            dial.portal,
            relay.endpoint,
            outcome,
            reason,
            dial.failed,
            seconds,
            up,
            down,
            dial.source,
            relay.id,
        )
        decisions = self._decisions.entries
        if decisions is None or plane.recorder.decision_watches:
            self._decisions.add(entry)
        else:
            decisions.append(entry)
        self._ended(dial, relay)

    def _cut(self, relay: Relay, cut: tuple[Outcome, str], down: int) -> tuple[Outcome, str]:
        """As what a connection has ended before its time, and why, with what follows for its endpoint."""
        outcome, reason = cut
        if reason is not RESET_BY_ENDPOINT or down or relay.endpoint is None:
            return cut
        note = self.balancer.reset_early(relay.endpoint, self._plane.loop.time())
        return outcome, f"{reason}; {note}" if note else reason

    def _ended(self, dial: Dial, connection: Dial | Relay, *, is_known: bool = True) -> None:
        plane = self._plane
        if plane.recorder.connection_watches and is_known:
            plane.recorder.tell_change(ChangeKind.REMOVED, connection)
        self.statistics.active -= 1
        del self.members[connection.id]
        dial.relay = None  # without the cycle both are freed at once
        self._share.remove(dial.address, dial)
        budget = plane.budget
        budget.free += PER_CONNECTION  # as give() does, without the call
        if budget.waiting:
            budget.wake_soon()
        plane.active -= 1
        if not self.members:
            plane.without_listener.discard(self)
            if not plane.active:
                plane.idle.set()


def _address(portal: Portal) -> Address | None:
    return ip_and_port(portal) if isinstance(portal, bytes) else portal
