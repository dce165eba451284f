"""Values for others of what connections, flows and listeners are."""

import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from userproxy.forwarding.observation.recorder import Entry, Portal
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.sockets import ip_and_port
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.model import ListenerName
from userproxy.model.reports import (
    Attempt,
    ConnectionReport,
    ConnectionState,
    Decision,
    Query,
    SocketAddress,
)

Member: TypeAlias = Dial | Relay | UdpFlow
"""A connection in one of its two phases, or a flow."""


_NO_FAULTS: Final[Mapping[int, str]] = {}
_TIME_WAS_SET: Final = 0.01
"""Seconds by which the two clocks are apart more than before. A clock that is adjusted slowly gets there, too."""


class Reporter:
    """Makes reports. `clock` and `faults` are those of the recorder."""

    def __init__(self, clock: Callable[[], float], faults: Mapping[int, str] = _NO_FAULTS) -> None:
        self.clock = clock
        self._faults = faults
        self._offset = time.time() - clock()

    def decision(self, entry: Entry) -> Decision:
        """A decision as others know it."""
        at, listener, peer, portal, endpoint, verdict, reason, failed, seconds, up, down, source, number = entry
        return Decision(
            time=self.unix_time(at),
            listener=listener,
            client=SocketAddress(peer[0], peer[1]),
            portal=portal_address(portal),
            endpoint=endpoint,
            verdict=verdict,
            reason=reason,
            tried=tuple(Attempt(endpoint, words) for endpoint, words, _ in failed),
            duration_seconds=seconds,
            bytes_up=up,
            bytes_down=down,
            id=number,
            source=source,
        )

    def connection(self, member: Member) -> ConnectionReport:
        """A connection or flow as it is now."""
        if isinstance(member, Relay):
            return self._relay(member)
        return self._dial(member) if isinstance(member, Dial) else self._flow(member)

    def unix_time(self, moment: float) -> float:
        """The Unix time of a moment on the clock; always the same, unless the system's time is set."""
        offset = time.time() - self.clock()
        if abs(offset - self._offset) > _TIME_WAS_SET:
            self._offset = offset
        return self._offset + moment

    def _dial(self, dial: Dial) -> ConnectionReport:
        age = self.clock() - dial.opened
        return ConnectionReport(
            id=dial.id,
            listener=dial.name,
            client=SocketAddress(dial.peer[0], dial.peer[1]),
            portal=portal_address(dial.portal),
            endpoint=dial.endpoint,
            state=ConnectionState.DIALING if dial.relay is None else ConnectionState.HELD,
            opened=dial.opened,
            opened_at=self.unix_time(dial.opened),
            age_seconds=age,
            idle_seconds=age,
            retries=len(dial.failed),
            dial_seconds=age,
            source=dial.source,
        )

    def _relay(self, relay: Relay) -> ConnectionReport:
        dial = relay.dial
        return ConnectionReport(
            id=relay.id,
            listener=dial.name,
            client=SocketAddress(dial.peer[0], dial.peer[1]),
            portal=portal_address(dial.portal),
            endpoint=relay.endpoint,
            state=_relay_state(relay),
            opened=dial.opened,
            opened_at=self.unix_time(dial.opened),
            age_seconds=self.clock() - dial.opened,
            idle_seconds=relay.quiet()[0],
            bytes_up=relay.bytes_up,
            bytes_down=relay.bytes_down,
            retries=len(dial.failed),
            dial_seconds=relay.dial_seconds,
            source=dial.source,
            dialled_from=_dialled_from(relay),
            faults=self._faults.get(relay.id, ""),
        )

    def _flow(self, flow: UdpFlow) -> ConnectionReport:
        now = flow.listener.now()
        counters = flow.counters
        return ConnectionReport(
            id=flow.id,
            listener=flow.listener.name,
            client=SocketAddress(flow.peer[0], flow.peer[1]),
            portal=portal_address(flow.portal),
            endpoint=flow.endpoint,
            state=ConnectionState.OPEN if counters is None or counters.usable else ConnectionState.DRAINING,
            opened=flow.opened,
            opened_at=self.unix_time(flow.opened),
            age_seconds=now - flow.opened,
            idle_seconds=max(0.0, now - flow.seen),
            bytes_up=flow.bytes_up,
            bytes_down=flow.bytes_down,
            retries=flow.retries + len(flow.failed),
            source=flow.source,
            dialled_from=_dialled_from(flow),
            faults=self._faults.get(flow.id, ""),
        )


def _dialled_from(member: Relay | UdpFlow) -> SocketAddress | None:
    try:
        ip, port = member.node
    except OSError:  # it has just ended
        return None
    return SocketAddress(ip, port) if ip else None


def portal_address(portal: Portal) -> SocketAddress | None:
    """What a client dialled."""
    if portal is None:
        return None
    ip, port = ip_and_port(portal) if isinstance(portal, bytes) else portal[:2]
    return SocketAddress(ip, port)


def listener_of(member: Member) -> ListenerName:
    """By which listener a client came."""
    if isinstance(member, UdpFlow):
        return member.listener.name
    return member.dial.name if isinstance(member, Relay) else member.name


def asks_for_member(query: Query, member: Member) -> bool:
    """Whether a query is about a connection or flow, whatever its listener and state."""
    if query.connection and member.id != query.connection:
        return False
    if query.client:
        client = member.dial.address if isinstance(member, Relay) else member.address
        if client != query.client:
            return False
    return query.admits_endpoint(member.endpoint)


def asks_for_decision(query: Query, entry: Entry) -> bool:
    """Whether a query is about a decision: also by an endpoint that was tried in vain."""
    if (query.client and query.client != entry[2][0]) or (query.outcomes and entry[5] not in query.outcomes):
        return False
    if query.endpoint is not None and not (
        query.admits_endpoint(entry[4]) or any(query.admits_endpoint(each[0]) for each in entry[7])
    ):
        return False
    return query.admits_listener(entry[1])


def _relay_state(relay: Relay) -> ConnectionState:
    if relay.half_closed:
        return ConnectionState.HALF_CLOSED
    return ConnectionState.OPEN if relay.counters.usable else ConnectionState.DRAINING
