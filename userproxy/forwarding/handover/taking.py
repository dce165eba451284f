"""Takes a data plane over: makes of values and descriptors the listeners, connections and flows that they were.

Sockets are watched as they come, and nobody looks at what the kernel says of them before :meth:`Taker.go_on`. Until
then all can be forsaken as if nothing had been.
"""

from collections.abc import Callable, Mapping, Sequence
from socket import SocketType
from typing import Final

from userproxy.errors import UserproxyError
from userproxy.forwarding.handover import learned
from userproxy.forwarding.handover.parts import AnyListener, Parts
from userproxy.forwarding.handover.values import (
    CLIENT_AND_BACKEND,
    AffinityEntries,
    AffinityHandedOver,
    ClientHandedOver,
    DatagramHandedOver,
    DecisionsHandedOver,
    DialHandedOver,
    Ended,
    FlowHandedOver,
    Item,
    Last,
    ListenerChanged,
    ListenerHandedOver,
    PairsHandedOver,
    PathHandedOver,
    PortalHandedOver,
    PortsHandedOver,
    RelayHandedOver,
    SnapshotChanged,
)
from userproxy.forwarding.holding.datagrams import HeldDatagram
from userproxy.forwarding.observation.counters import CountersState, ListenerCounters, total
from userproxy.forwarding.observation.recorder import DecisionRing
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.portal import PortlessTcpListener
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.forwarding.udp.groups.further import FurtherSockets
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.forwarding.udp.sources.source_trial import SourceTrial
from userproxy.forwarding.udp.states import FlowState, restore
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import (
    Endpoint,
    IPFamily,
    ListenerName,
    PortalAddress,
    Protocol,
    ServicePortName,
    Snapshot,
    Verdict,
)
from userproxy.model.reports import Source
from userproxy.routing.affinity import PlainClient
from userproxy.routing.balancer import Balancer
from userproxy.routing.balancers.state import NO_STATE

_NEVER: Final = float("-inf")


class HandoverError(UserproxyError):
    """What came cannot be made into a data plane."""


class Taker:
    """Takes over into a data plane that has nothing yet. Raises HandoverError.

    A data process, which `shares` its listeners, is told of them by its control process, see :meth:`know`.
    """

    def __init__(self, parts: Parts, *, shares: bool = False) -> None:
        self._parts = parts
        self._shares = shares
        self._counted: dict[int, dict[tuple[int, bool], CountersState]] = {}
        """What each of the other side's processes has counted, by the listener's number; and whether while closed."""
        for poller in (parts.tcp.poller, parts.udp.poller):
            poller.pause()
        self._connections: dict[int, Connections] = {}
        self._listeners: dict[int, AnyListener] = {}
        self._balancers: dict[int, Balancer] = {}
        self._closed: dict[int, tuple[ListenerName, ListenerCounters]] = {}
        self._table_of: dict[tuple[ServicePortName, IPFamily], int] = {}
        """Whose affinity table one here goes on, of the other side's processes."""
        self._to_merge: dict[tuple[ServicePortName, IPFamily, int], dict[PlainClient, int]] = {}
        """Entries of others, whose indices are of endpoints in `_foreign`."""
        self._foreign: dict[tuple[ServicePortName, IPFamily, int], tuple[Endpoint | None, ...]] = {}
        self._without_listener: list[Connections] = []
        self._rings: list[DecisionRing] = []
        """Kept until all listeners are there that keep them."""
        self._portals: dict[PortalAddress, TcpListener | UdpListener] = {}
        self._adopted: dict[TcpListener | UdpListener, None] = {}
        """Those that have got clients or flows beside established connections."""
        self._newest: dict[Connections, int] = {}
        self._unordered: set[Connections] = set()
        """Those that have got an older connection after a newer one."""
        self._relays: dict[int, tuple[Connections, Relay]] = {}
        self._flows: dict[int, UdpFlow] = {}
        self._dials: list[tuple[Dial, SocketType | None, float | None]] = []
        self.is_complete = False
        """Whether all has come."""
        self._plane = 0
        self._take: Mapping[type, Callable[..., None]] = {
            ListenerHandedOver: self._listener,
            ListenerChanged: self._listener_changed,
            SnapshotChanged: self._snapshot_changed,
            PortalHandedOver: self._portal,
            AffinityHandedOver: self._affinity,
            AffinityEntries: self._affinity_entries,
            RelayHandedOver: self._relay,
            DialHandedOver: self._dial,
            ClientHandedOver: self._client,
            DatagramHandedOver: self._datagram,
            FlowHandedOver: self._flow,
            DecisionsHandedOver: self._decisions,
            PathHandedOver: self._learned,
            PairsHandedOver: self._learned,
            PortsHandedOver: self._learned,
            Ended: self._ended,
            Last: self._last,
        }

    def take(self, item: Item, descriptors: Sequence[int], plane: int = 0) -> None:
        """Take in a value and the descriptors that belong to it, which are ours from now on.

        `plane` is the number of the process that it is of, on the other side.
        """
        self._plane = plane
        if len(descriptors) != item.descriptors:
            raise HandoverError(f"{type(item).__name__} comes with {len(descriptors)} descriptors")
        self._parts.tcp.poller.of_others.update(descriptors)
        try:
            self._take[type(item)](item, *descriptors)
        except (KeyError, IndexError, ValueError) as error:
            raise HandoverError(f"{type(item).__name__} does not fit what came before") from error
        except OSError as error:
            raise HandoverError(f"{type(item).__name__} cannot be taken over: {error.strerror}") from error

    def know(self, number: int, listener: AnyListener) -> None:
        """Take notice of a listener that has been opened here, whose number is as on the other side."""
        self._listeners[number] = listener
        self._balancers[number] = listener.balancer
        if isinstance(listener, TcpListener | PortlessTcpListener):
            self._connections[number] = listener.connections

    def know_portal(self, address: PortalAddress, listener: TcpListener | UdpListener) -> None:
        """Take notice of what serves at a portal here."""
        self._portals[address] = listener

    def deal(self) -> None:
        """Nothing: all that was taken is where it belongs."""

    def arrived(self) -> None:
        """Put in order what has come so far: so much less is left for the end."""
        for connections in self._unordered:
            connections.in_order()
        self._unordered.clear()

    def complete(self) -> None:
        """All has come: put in order what needs no socket."""
        self._merge_affinity()
        self.arrived()
        # Those whose time is over first come first, whichever process they were in.
        # So do, of clients who are held, those who came first.
        self._dials.sort(key=lambda each: (each[2] or _NEVER, each[0].opened))

    def go_on(self) -> None:
        """Begin: the other process has let go. What the sockets have to say is heard once the loop runs."""
        poller = self._parts.tcp.poller
        try:
            for connections in self._without_listener:
                connections.left()
            for listener in self._adopted:
                listener.adopted()
            for dial, backend, deadline in self._dials:
                try:
                    dial.resume(backend, deadline)
                except Exception as error:  # noqa: BLE001 -- the others are to go on
                    poller.failed(dial, error)
        finally:
            for each in (poller, self._parts.udp.poller):
                each.resume()

    def _listener(self, item: ListenerHandedOver, *descriptors: int) -> None:
        if item.number in self._balancers:
            self._count(item.number, item.counters, is_open=item.is_open)
            return
        balancer = self._parts.balancer()
        balancer.restore(item.balancer)
        self._balancers[item.number] = balancer
        listener: AnyListener
        if not item.is_open:
            self._closed_listener(item, balancer)
            return
        if not item.port:
            listener = self._parts.portals.listener(item.name, balancer)
        elif item.name.service_port.protocol is Protocol.TCP:
            listener = self._tcp_listener(item, balancer, *descriptors)
        else:
            listener = self._udp_listener(item, balancer, *descriptors)
        self.know(item.number, listener)
        self._parts.listeners[item.name] = listener
        if item.snapshot is not None:
            self._follow(listener, item.snapshot)
        self._count(item.number, item.counters)  # after the endpoints are known, so that none counts as gone

    def _follow(self, listener: AnyListener, snapshot: Snapshot) -> None:
        self._parts.snapshots[snapshot.listener] = snapshot
        listener.balancer.update(snapshot)
        listener.follow(snapshot)

    def _snapshot_changed(self, item: SnapshotChanged) -> None:
        self._follow(self._listeners[item.number], item.snapshot)

    def _closed_listener(self, item: ListenerHandedOver, balancer: Balancer) -> None:
        statistics: ListenerCounters = UdpStatistics()
        if item.name.service_port.protocol is Protocol.TCP:
            connections = Connections(self._parts.tcp, item.name, balancer)
            self._connections[item.number] = connections
            self._without_listener.append(connections)
            statistics = connections.statistics
        if self._shares:
            statistics.number = item.number
        self._closed[item.number] = item.name, statistics
        self._count(item.number, item.counters, is_open=False)

    def _tcp_listener(self, item: ListenerHandedOver, balancer: Balancer, *descriptors: int) -> TcpListener:
        parts = self._parts
        verdict = item.verdict or Verdict.REJECT
        sock = ListeningSocket.adopt(descriptors[0], verdict)
        parts.tcp.budget.adopt_port()
        connections = Connections(parts.tcp, item.name, balancer)
        return TcpListener(parts.tcp, sock, connections, portals_only=parts.portals_only, verdict=verdict)

    def _udp_listener(self, item: ListenerHandedOver, balancer: Balancer, *descriptors: int) -> UdpListener:
        parts = self._parts
        own = 2 if item.is_held else 1
        sock = DatagramSocket.adopt(descriptors[0], item.host, descriptors[1] if item.is_held else None)
        group = DatagramGroup.of(sock, descriptors[own:])
        parts.udp.budget.adopt_port()
        portal = None if parts.portals_only else (item.host, item.port)
        listener = UdpListener(parts.udp, item.name, sock, balancer, UdpStatistics(), portal)
        listener.further = FurtherSockets.of(group, parts.udp.poller, listener)
        listener.watch_as(item.verdict)
        return listener

    def _listener_changed(self, item: ListenerChanged) -> None:
        if item.balancer != NO_STATE and (item.is_open or item.number not in self._listeners):
            self._balancers[item.number].restore(item.balancer)
        self._count(item.number, item.counters, is_open=item.is_open)

    def _count(self, number: int, counters: CountersState, *, is_open: bool = True) -> None:
        """Have a listener have counted what it had on the other side, in all processes together."""
        counted = self._counted.setdefault(number, {})
        counted[self._plane, is_open] = counters
        sums = total(tuple(counted.values()))
        listener = self._listeners.get(number)
        if listener is not None:
            listener.statistics.restore(sums)
            return
        name, statistics = self._closed[number]
        statistics.restore(sums)
        self._parts.closed.add(name, statistics)  # which keeps only who has counted something

    def _portal(self, item: PortalHandedOver, *descriptors: int) -> None:
        self._parts.tcp.budget.adopt_port()
        listener = self._parts.portals.adopt(item.address, item.admission, descriptors)
        if listener is not None:
            self._portals[item.address] = listener

    def _affinity(self, item: AffinityHandedOver) -> None:
        key = item.service_port, item.family
        table = self._parts.affinity.find(*key)
        if table is None:
            return
        if self._table_of.setdefault(key, self._plane) == self._plane:
            table.restore(item.state)
        else:
            self._foreign[*key, self._plane] = item.state.endpoints

    def _affinity_entries(self, item: AffinityEntries) -> None:
        key = item.service_port, item.family
        table = self._parts.affinity.find(*key)
        if table is None:
            return
        if self._table_of[key] != self._plane:
            entries = self._to_merge.setdefault((*key, self._plane), {})
            if item.is_anew:
                entries.clear()
            entries.update(item.entries)
            return
        if item.is_anew:
            table.clear()
        table.adopt(item.entries, young=item.is_young)

    def _merge_affinity(self) -> None:
        for (service_port, family, plane), entries in self._to_merge.items():
            table = self._parts.affinity.find(service_port, family)
            if table is not None:
                table.merge(entries, self._foreign[service_port, family, plane])

    def _relay(self, item: RelayHandedOver, *descriptors: int) -> None:
        if item.is_new:
            client, backend = map(_socket, descriptors[:CLIENT_AND_BACKEND])
            owner = self._connections[item.owner]
            relay = owner.adopt_relay(item.state, client, backend)
            self._note_order(owner, relay.id)
            self._relays[relay.id] = owner, relay
            relay.watch()
        _, known = self._relays[item.state.dial.id]
        known.restore(item.state, descriptors[CLIENT_AND_BACKEND if item.is_new else 0 :])

    def _dial(self, item: DialHandedOver, client: int, backend: int | None = None) -> None:
        owner = self._connections[item.owner]
        dial = owner.adopt_dial(item.state, _socket(client))
        self._note_order(owner, dial.id)
        self._dials.append((dial, None if backend is None else _socket(backend), item.state.deadline))

    def _note_order(self, owner: Connections, number: int) -> None:
        if number < self._newest.get(owner, 0):
            self._unordered.add(owner)
        else:
            self._newest[owner] = number

    def _client(self, item: ClientHandedOver, descriptor: int) -> None:
        listener = self._listeners[item.owner] if item.portal is None else self._portals[item.portal]
        if isinstance(listener, TcpListener):
            self._adopted[listener] = None
            listener.adopt_held(_socket(descriptor), item.peer)

    def _datagram(self, item: DatagramHandedOver) -> None:
        listener = self._listeners[item.owner] if item.portal is None else self._portals[item.portal]
        if isinstance(listener, UdpListener):
            self._adopted[listener] = None
            listener.adopt_held(HeldDatagram(item.addresses, item.payload, item.since))

    def _flow(self, item: FlowHandedOver, descriptor: int = -1) -> None:
        listener = self._listeners[item.owner] if item.portal is None else self._portals[item.portal]
        if not isinstance(listener, UdpListener):
            raise HandoverError("a flow is told of a listener that is not of UDP")
        self._adopted[listener] = None
        state = item.state
        known = self._flows.get(state.id)
        if known is None:
            if item.is_new:
                self._make_room_for(listener, state)
                self._flows[state.id] = _flow(listener, state, _socket(descriptor))
            return
        restore(known, state)
        if item.is_new:
            known.adopt(_socket(descriptor), state.endpoint)
        listener.flows.move(known, state.seen, state.due, stream=state.stream)

    def _make_room_for(self, listener: UdpListener, state: FlowState) -> None:
        """A client has one flow: another one of it has ended meanwhile, which may be told later, or is left behind.

        It may have had one in two data processes, where its Service's affinity was edited not long ago.
        """
        before = listener.flows.by_client.get(state.client)
        if before is not None:
            self._flows.pop(before.id, None)
            before.vanish()

    def _decisions(self, item: DecisionsHandedOver) -> None:
        ring = self._parts.recorder.ring(item.service_port)
        self._rings.append(ring)
        for entry in item.entries:
            ring.add(entry)

    def _learned(self, item: PathHandedOver | PairsHandedOver | PortsHandedOver) -> None:
        learned.take(self._parts, item)

    def _ended(self, item: Ended) -> None:
        for number in item.ids:
            if number in self._relays:
                owner, relay = self._relays.pop(number)
                owner.forget(relay)
            elif number in self._flows:
                self._flows.pop(number).vanish()

    def _last(self, item: Last) -> None:
        self._parts.recorder.last_id = max(self._parts.recorder.last_id, item.last_id)
        self.is_complete = True


def _flow(listener: UdpListener, state: FlowState, sock: SocketType) -> UdpFlow:
    flow = UdpFlow(listener, state.client, state.peer, state.addressee, state.opened)
    restore(flow, state)
    flow.adopt(sock, state.endpoint)
    sources = listener.sources_of(flow.address)
    if state.is_trial and state.source is Source.CLIENT and sources is not None:
        now = listener.now()
        pair = sources.pair(flow.address, state.endpoint, now)
        flow.trial = None if pair is None or pair.answered else SourceTrial(flow, pair, now)
    listener.flows.restore(flow, state.seen, state.due, stream=state.stream)
    listener.statistics.active += 1
    listener.plane.budget.adopt(1)
    listener.plane.quota.add(listener.flows)
    return flow


def _socket(descriptor: int) -> SocketType:
    """A connected socket; the kernel says of which family and type."""
    sock = SocketType(fileno=descriptor)
    sock.settimeout(0)
    return sock
