"""Hands a data plane over: first in slices, while it serves on, and then what has changed meanwhile, in one turn.

What changes while the first slices are under way may be handed over in slices, too, as often as it takes until little
is left for that turn.

Nothing of the data plane changes by being handed over, until :meth:`Giver.forsake` leaves it to the other process.
"""

from collections.abc import AsyncIterator, Iterator
from itertools import groupby
from socket import SocketType
from typing import Final

from userproxy.forwarding.faults.faults import Faults
from userproxy.forwarding.handover import learned
from userproxy.forwarding.handover.noting import CounterChanges
from userproxy.forwarding.handover.parts import AnyListener, Parts
from userproxy.forwarding.handover.survey import Survey, Whose, survey
from userproxy.forwarding.handover.values import (
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
    PortalHandedOver,
    RelayHandedOver,
    SnapshotChanged,
)
from userproxy.forwarding.observation.counters import ListenerCounters
from userproxy.forwarding.observation.recorder import Entry
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.states import state_of
from userproxy.model import IPFamily, ListenerName, ServicePortName
from userproxy.pace import Pace
from userproxy.routing.affinity import AffinityTable
from userproxy.routing.balancers.state import NO_STATE, BalancerState

_NEVER: Final = float("-inf")

Given = tuple[Item, list[int]]
"""A value, and the descriptors that belong to it."""


class Giver:
    """Hands over what is there; use one for each attempt.

    :meth:`first` while the data plane serves, :meth:`changed` as often as is of use, then :meth:`rest` in one turn of
    the loop in which nothing else runs, and then :meth:`forsake` once the other process serves, or :meth:`cancel` if it
    does not.

    Of a data process, which `shares` its listeners, only what it has done for them is handed over: the sockets are
    another process's to give. Then there is no `Last` either, since others have something to give, too.

    `faults` are suspended as long as it is not given up, since bytes wait in them; so are, in the end, those that
    somebody has made connections suffer meanwhile.
    """

    def __init__(self, parts: Parts, faults: Faults, *, shares: bool = False) -> None:
        self._parts = parts
        self._faults = faults
        faults.suspend()
        self._shares = shares
        self._relays: dict[int, object] = {}
        """The connections that were handed over, and the mark of each one then."""
        self._flows: dict[int, tuple[SocketType | None, object]] = {}
        self._known: dict[ListenerCounters, AnyListener | Connections] = {}
        """Whose counters they are; connections are those of a listener that was closed when it was handed over."""
        self._changes = CounterChanges()
        self._busy: dict[AnyListener | Connections, None] = {}
        """Those that have had clients since they were handed over."""
        self._count = 0
        """Of listeners, when all were looked through."""
        self._renewed: dict[ListenerName, None] = {}
        """Those that have had another snapshot since then."""
        self._tables: dict[AffinityTable, int] = {}
        self._began = _NEVER
        self._were_shared = parts.tcp.relays.shared
        self._decisions: list[Entry] = []
        """Those since then."""

    async def first(self) -> AsyncIterator[Given]:
        """What is there, while it goes on: established connections and flows with their sockets."""
        async for given in _paced(self.beginning()):
            yield given

    async def changed(self) -> AsyncIterator[Given]:
        """What has changed since, while it goes on: so much less is left for :meth:`rest`."""
        async for given in _paced(self.changes()):
            yield given

    def beginning(self) -> Iterator[Given | None]:
        """As :meth:`first`, for who sees to it that others have their turn between two values.

        The descriptors of one are to be passed on before that; None is time for it without a value.
        """
        parts = self._parts
        parts.tcp.relays.shared = parts.tcp.poller.copied = True
        self._began = parts.tcp.loop.time()
        parts.snapshot_watches.append(self)
        yield from self._listeners()
        yield from self._portals()
        yield from self._learned()
        for name, table in parts.affinity.items():
            yield from self._affinity(name, table)
        parts.recorder.decision_watches.append(self)
        for service_port, ring in parts.recorder.all_rings():
            if not len(ring):
                yield None
                continue
            self._decisions = [each for each in self._decisions if each[1].service_port != service_port]
            yield DecisionsHandedOver(service_port, tuple(map(_plain, ring))), []
        yield from self._changed_members()

    def changes(self) -> Iterator[Given | None]:
        """As :meth:`changed`, for who calls :meth:`beginning`.

        Affinity is not in it: an entry has the time of its client's coming, and may be written later.
        """
        yield from self._new_listeners()
        yield from ((item, []) for item in self._changed_snapshots())
        yield from ((item, []) for item in self._changed_listeners())
        newest = self.last_id
        if ended := self._ended(self._survey()):
            for number in ended:
                self._relays.pop(number, None)
                self._flows.pop(number, None)
            yield Ended(ended), []
        yield from ((item, []) for item in self._decided())
        yield from self._changed_members(newest)

    def rest(self) -> Iterator[Given]:
        """What is new, or other than it was, and what has ended. Between two values nothing of the loop may run."""
        parts = self._parts
        self._faults.suspend()
        parts.tcp.poller.close_now()
        parts.udp.poller.close_now()
        parts.udp.flush()
        yield from (given for given in self._new_listeners() if given is not None)
        yield from ((item, []) for item in self._changed_snapshots())
        yield from ((item, []) for item in self._changed_listeners())
        for name, table in parts.affinity.items():
            yield from self._changed_affinity(name, table)
        found = self._survey()
        yield Ended(self._ended(found)), []
        yield from self._changed_relays(found)
        yield from self._dials(found)
        for listener, (owner, portal) in found.udp:
            for flow in listener.flows:
                yield from self._changed_flow(flow, (owner, portal))
            for peer, held in listener.held_datagrams():
                yield DatagramHandedOver(owner, portal, peer, *held), []
        for waiting, whose in found.waiting:
            for client, peer in waiting.held:
                yield ClientHandedOver(*whose, peer[:2]), [client.fileno()]
        yield from ((item, []) for item in self._decided())
        if not self._shares:
            yield Last(self.last_id), []

    @property
    def last_id(self) -> int:
        """The id of the newest connection or flow."""
        return self._parts.recorder.last_id

    def cancel(self, *, lingers: bool = False) -> None:
        """It has come to nothing: serve on.

        If the other process `lingers`, with its copies of sockets, close(2) alone tells peers nothing from now on:
        nobody says when it has gone.
        """
        self._parts.tcp.relays.shared = lingers or self._were_shared
        self._changes.end(self._known)
        for watches in (self._parts.recorder.decision_watches, self._parts.snapshot_watches):
            if self in watches:
                watches.remove(self)
        self._faults.resume()

    def tell(self, entry: Entry) -> None:
        """See :class:`~userproxy.forwarding.observation.recorder.DecisionWatch`."""
        self._decisions.append(entry)

    def renewed(self, listener: ListenerName) -> None:
        """See :class:`~userproxy.forwarding.handover.noting.SnapshotWatch`.

        What its balancer knows is handed over again, too: it is that of endpoints.
        """
        counters = self._parts.listeners[listener].statistics
        if counters in self._known:
            self._changes.note(counters)
            self._renewed[listener] = None

    def _portals(self) -> Iterator[Given]:
        if not self._shares:
            for address, admission, (sock, *others), _ in list(self._parts.portals.open_portals()):
                further = [each.fileno() for each in others]
                yield PortalHandedOver(address, admission, len(further)), [sock.fileno(), *further]

    def _learned(self) -> Iterator[Given]:
        if not self._shares:
            yield from ((item, []) for item in learned.paths(self._parts))
        yield from ((item, []) for item in learned.given(self._parts))

    def _listeners(self) -> Iterator[Given | None]:
        yield from self._new_listeners()
        for connections in list(self._parts.tcp.without_listener):
            if isinstance(connections, Connections) and connections.statistics not in self._known:
                self._know(connections)
                yield _closed_listener(connections.name, connections.statistics, connections.balancer.state()), []
        for name, statistics in self._parts.closed.current():
            if statistics not in self._known:
                yield _closed_listener(name, statistics, NO_STATE), []

    def _new_listeners(self) -> Iterator[Given | None]:
        """Those that were not there before: a data process that has just taken a place is told of them one by one."""
        listeners = self._parts.listeners
        if len(listeners) != self._count:
            self._count = len(listeners)
            for name, listener in zip(list(listeners), list(listeners.values()), strict=True):
                yield None if listener.statistics in self._known else self._met(name, listener)

    def _met(self, name: ListenerName, listener: AnyListener) -> Given | None:
        """What is to be told of a listener at first, if anything is."""
        self._know(listener)
        if not self._shares:
            return self._listener(name, listener)
        if not any(listener.statistics.mark) and not listener.balancer.has_learned:
            return None  # it has served nobody: a listener is another process's to tell of
        return ListenerChanged(listener.statistics.number, listener.balancer.state(), listener.statistics.state()), []

    def _know(self, listener: AnyListener | Connections) -> None:
        """Note what changes of a listener, which is described right afterwards."""
        counters = listener.statistics
        self._known[counters] = listener
        self._changes.look(counters)
        if counters.active or counters.held:
            self._busy[listener] = None

    def _listener(self, name: ListenerName, listener: AnyListener) -> Given:
        host, verdict, descriptors = "", None, []
        is_held = False
        if isinstance(listener, TcpListener):
            verdict = listener.verdict
            descriptors = [listener.socket.fileno()]
        elif isinstance(listener, UdpListener):
            host, verdict = listener.host, listener.verdict
            descriptors = [listener.socket.fileno()]
            if listener.socket.holder is not None:
                is_held = True
                descriptors.append(listener.socket.holder.fileno())
            if listener.further is not None:
                descriptors += listener.further.descriptors
        return (
            ListenerHandedOver(
                listener.statistics.number,
                name,
                is_open=True,
                port=listener.port,
                host=host,
                verdict=verdict,
                is_held=is_held,
                further=max(0, len(descriptors) - 1 - is_held),
                snapshot=self._parts.snapshots.get(name),
                balancer=listener.balancer.state(),
                counters=listener.statistics.state(),
            ),
            descriptors,
        )

    def _changed_listeners(self) -> Iterator[ListenerChanged]:
        """No listener is closed meanwhile."""
        for counters in self._changes.take():
            listener = self._known[counters]
            self._know(listener)
            is_open = not isinstance(listener, Connections)
            yield ListenerChanged(counters.number, listener.balancer.state(), counters.state(), is_open=is_open)

    def _changed_snapshots(self) -> Iterator[SnapshotChanged]:
        """Of data processes it is their control process that tells."""
        renewed, self._renewed = self._renewed, {}
        if not self._shares:
            listeners, snapshots = self._parts.listeners, self._parts.snapshots
            for name in renewed:
                if name in listeners:  # else a stop has closed it meanwhile
                    yield SnapshotChanged(listeners[name].statistics.number, snapshots[name])

    def _survey(self) -> Survey:
        """Who has clients, of those who had some since the beginning."""
        self._busy |= dict.fromkeys(self._known[counters] for counters in self._changes.noted())
        return survey(self._parts, (each for each in self._busy if not isinstance(each, Connections)))

    def _affinity(self, name: tuple[ServicePortName, IPFamily], table: AffinityTable) -> Iterator[Given]:
        service_port, family = name
        state = table.state()
        self._tables[table] = state.since
        yield AffinityHandedOver(service_port, family, state), []
        for young in (False, True):
            for entries in table.entries(young=young):
                yield AffinityEntries(service_port, family, young, entries), []

    def _changed_affinity(self, name: tuple[ServicePortName, IPFamily], table: AffinityTable) -> Iterator[Given]:
        service_port, family = name
        state = table.state()
        if self._tables.get(table) != state.since:  # the generations are others
            yield AffinityEntries(service_port, family, is_young=True, entries={}, is_anew=True), []
            yield from self._affinity(name, table)
            return
        entries = table.written_since(self._began)
        if entries:
            yield AffinityHandedOver(service_port, family, state), []
            yield AffinityEntries(service_port, family, is_young=True, entries=entries), []

    def _ended(self, found: Survey) -> tuple[int, ...]:
        alive = {flow.id for listener, _ in found.udp for flow in listener.flows}
        alive.update(*(connections.members for connections in found.connections))
        return (*(self._relays.keys() - alive), *(self._flows.keys() - alive))

    def _changed_members(self, newest: float = float("inf")) -> Iterator[Given | None]:
        """Connections and flows that are new or other than they were, and may be handed over while they go on.

        A flow with a greater id than `newest` is left for later: its client's flow before may have ended since ends
        were told.
        """
        for connections in self._survey().connections:
            for relay in list(connections.members.values()):
                if isinstance(relay, Relay) and not relay.closed and self._may_be_told(relay):
                    yield self._beginning(connections, relay)
                yield None
        for listener, whose in self._survey().udp:
            for flow in list(listener.flows):
                if flow.id <= newest or flow.id in self._flows:
                    yield from self._changed_flow(flow, whose)
                yield None

    def _may_be_told(self, relay: Relay) -> bool:
        """What waits in a connection, or when it is to end, is told with the rest alone."""
        return relay.id not in self._relays or (relay.mark is not None and self._is_other(relay))

    def _changed_relays(self, found: Survey) -> Iterator[Given]:
        """Those first whose time is over first, which is the order of the queue that they are in."""
        others = [
            (relay.deadline or _NEVER, connections, relay)
            for connections in found.connections
            for relay in connections.members.values()
            if isinstance(relay, Relay) and self._is_other(relay)
        ]
        for _, connections, relay in sorted(others, key=lambda each: each[0]):
            yield self._relay(connections, relay)

    def _beginning(self, connections: Connections, relay: Relay) -> Given:
        """A connection as it is, with its sockets where they were not handed over yet; or all that will stay so."""
        is_new = relay.id not in self._relays
        mark = self._relays[relay.id] = relay.mark
        state = relay.beginning() if mark is None else relay.state()
        descriptors = [sock.fileno() for sock in relay.sockets] if is_new else []
        return RelayHandedOver(connections.statistics.number, is_new=is_new, state=state), descriptors

    def _is_other(self, relay: Relay) -> bool:
        before = self._relays.get(relay.id)
        return before is None or before != relay.mark

    def _relay(self, connections: Connections, relay: Relay) -> Given:
        is_new = relay.id not in self._relays
        descriptors = [sock.fileno() for sock in relay.sockets] if is_new else []
        item = RelayHandedOver(connections.statistics.number, is_new=is_new, state=relay.state())
        return item, [*descriptors, *relay.pipe_ends]

    def _dials(self, found: Survey) -> Iterator[Given]:
        dials = [
            (dial.state(), connections.statistics.number, dial)
            for connections in found.connections
            for dial in connections.members.values()
            if isinstance(dial, Dial)
        ]
        for state, owner, dial in sorted(dials, key=lambda each: each[0].deadline or _NEVER):
            backend = dial.backend_to_keep
            sockets = [dial.client] if backend is None else [dial.client, backend]
            item = DialHandedOver(owner, has_backend=len(sockets) > 1, state=state)
            yield item, [sock.fileno() for sock in sockets]

    def _changed_flow(self, flow: UdpFlow, whose: Whose) -> Iterator[Given]:
        """A flow, if it is new or other than it was, with its socket where it has another one than before."""
        before, mark = self._flows.get(flow.id), flow.mark
        if before is not None and before[1] == mark:
            return
        state = state_of(flow)
        if state is not None and flow.socket is not None:
            is_new = before is None or before[0] is not flow.socket
            descriptors = [flow.socket.fileno()] if is_new else []
            self._flows[flow.id] = flow.socket, mark
            yield FlowHandedOver(*whose, is_new=is_new, state=state), descriptors

    def _decided(self) -> Iterator[DecisionsHandedOver]:
        """What was decided since the last time, in few values."""
        decided, self._decisions = self._decisions, []
        for service_port, entries in groupby(decided, key=lambda entry: entry[1].service_port):
            yield DecisionsHandedOver(service_port, tuple(map(_plain, entries)))


async def _paced(given: Iterator[Given | None]) -> AsyncIterator[Given]:
    pace = Pace()
    for each in given:
        if each is not None:
            yield each
        await pace.keep()


def _closed_listener(name: ListenerName, statistics: ListenerCounters, balancer: BalancerState) -> ListenerHandedOver:
    return ListenerHandedOver(statistics.number, name, is_open=False, balancer=balancer, counters=statistics.state())


def _plain(entry: Entry) -> Entry:
    """A decision whose addresses are address and port, also where the kernel's are longer."""
    at, name, peer, portal, endpoint, outcome, reason, failed, seconds, up, down, source, number = entry
    dialled = portal if portal is None or isinstance(portal, bytes) else portal[:2]
    return (at, name, peer[:2], dialled, endpoint, outcome, reason, failed, seconds, up, down, source, number)
