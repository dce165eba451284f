"""Answers what the listeners and connections of this process do: :class:`~userproxy.model.data_plane.DataPlane`."""

import heapq
import os
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from operator import itemgetter
from typing import Protocol as Interface
from typing import TypeAlias

from msgspec import structs

from userproxy.forwarding.descriptors import count_descriptors
from userproxy.forwarding.observation.capture import CaptureReader, Captures
from userproxy.forwarding.observation.closed import ClosedListeners
from userproxy.forwarding.observation.counters import ListenerCounters
from userproxy.forwarding.observation.figures import endpoint_figures, figures_of
from userproxy.forwarding.observation.loop_lag import LoopLag
from userproxy.forwarding.observation.recorder import Entry, Recorder
from userproxy.forwarding.observation.reports import (
    Member,
    Reporter,
    asks_for_decision,
    asks_for_member,
)
from userproxy.forwarding.observation.watches import ConnectionReader, DecisionReader
from userproxy.forwarding.return_pairs import first_lost
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.plane import Connections, TcpPlane
from userproxy.forwarding.tcp.portal import PortlessTcpListener
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.sockets import source_address
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.forwarding.udp.flows import FlowTable
from userproxy.forwarding.udp.plane import UdpPlane
from userproxy.model import Endpoint, ListenerName, Protocol, Snapshot, Verdict
from userproxy.model.balancer_reports import BalancerFault, EjectedEndpoint
from userproxy.model.capture import CAPTURE_ROOM, CaptureRequest
from userproxy.model.data_plane import WATCH_ROOM, HandedOverError
from userproxy.model.holding import HeldClients
from userproxy.model.reports import (
    ALL,
    Choice,
    ConnectionPage,
    ConnectionReport,
    Decision,
    ListenerFigures,
    LostAnswers,
    ProcessFigures,
    Query,
    Source,
)
from userproxy.pace import Pace
from userproxy.routing.balancer import Balancer
from userproxy.routing.balancers.board import BalancerBoard
from userproxy.routing.client_address import NODE_ASKED_FOR

_LISTENERS_AT_ONCE = 64
"""So many are passed over without a look at the time."""


class Listener(Interface):
    """What is asked of a listener, whatever its transport protocol."""

    @property
    def balancer(self) -> Balancer:
        """Chooses the endpoint for each new client."""

    @property
    def statistics(self) -> ListenerCounters:
        """What it has done so far."""

    @property
    def port(self) -> int:
        """The local port, or 0."""


Group: TypeAlias = Mapping[int, Member]
"""Connections or flows of one listener by their ids, which ascend."""


class LocalDataPlane:
    """Answers for one process, whose parts it looks at. To be used on the loop's thread only."""

    def __init__(
        self,
        tcp: TcpPlane,
        udp: UdpPlane,
        recorder: Recorder,
        listeners: Mapping[ListenerName, Listener],
        snapshots: Mapping[ListenerName, Snapshot],
        descriptor_limit: int,
        board: BalancerBoard,
    ) -> None:
        self._tcp = tcp
        self._udp = udp
        self._recorder = recorder
        self._listeners = listeners
        self._snapshots = snapshots
        self._descriptor_limit = descriptor_limit
        self._board = board
        self._is_left = False
        self._order = count()
        self._reporter = Reporter(recorder.clock, recorder.faults)
        self._captures = Captures(recorder, tcp.relays)
        self.closed = ClosedListeners(recorder.clock)
        """To be told of listeners that are closed."""
        self.loop_lag = LoopLag(tcp.loop)

    def leave(self) -> None:
        """All is about to be another process's: counters stay as they are now, for answers that are still being made.

        Answers without them would look like counters that have begun anew.
        """
        if not self._is_left:
            self._is_left = True
            self._listeners = dict(self._listeners)

    async def listeners(self, query: Query = ALL) -> tuple[ListenerFigures, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        return tuple([each async for each in self.figures(lambda name, _: query.admits_listener(name))])

    async def figures(self, wanted: Callable[[ListenerName, ListenerCounters], bool]) -> AsyncIterator[ListenerFigures]:
        """The figures of those of the open listeners that are wanted."""
        pace = Pace()
        flows = self._flows_by_listener()
        listeners = self._listeners
        for index, (name, listener) in enumerate(zip(list(listeners), list(listeners.values()), strict=True)):
            if not index % _LISTENERS_AT_ONCE:
                await pace.keep()
            if wanted(name, listener.statistics) and self._listeners.get(name) is listener:
                yield await self._figures(name, listener, flows.get(name, ()), pace)
                await pace.keep()

    async def closed_listeners(self) -> tuple[ListenerFigures, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        return tuple([figures for figures, _ in await self.every_listener(None)])

    async def every_listener(self, query: Query | None) -> list[tuple[ListenerFigures, bool]]:
        """The figures of open listeners that a query is about, none for None, and of all that are closed.

        With whether each is open, as of one moment: each is told of once, also one that is closed meanwhile.
        """
        opened = [] if query is None else list(self._listeners.items())
        closed, flows, pace = self.closed.current(), self._flows_by_listener() if opened else {}, Pace()
        found = []
        for index, (name, listener) in enumerate(opened):
            if not index % _LISTENERS_AT_ONCE:
                await pace.keep()
            if query is not None and query.admits_listener(name):
                found.append((await self._figures(name, listener, flows.get(name, ()), pace), True))
                await pace.keep()
        for connections in tuple(self._tcp.without_listener):
            await _settle(connections, pace)
        for name, counters in closed:
            endpoints = [endpoint_figures(*each) for each in counters.endpoints.items() if each[1].active]
            found.append((figures_of(name, counters, Verdict.REJECT, endpoints), False))
            await pace.keep()
        return found

    async def connections(self, query: Query = ALL, limit: int = 1000, after: int = 0) -> ConnectionPage:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        page = await self._connections(query, limit, after)
        if self._is_left:
            raise HandedOverError
        return page

    async def _connections(self, query: Query, limit: int, after: int) -> ConnectionPage:
        pace = Pace()
        found: list[ConnectionReport] = []
        members = [_after(group, after) for group in await self._groups(query, pace)]
        for _, member in heapq.merge(*members, key=itemgetter(0)):
            await pace.keep()
            if _is_over(member) or not asks_for_member(query, member):
                continue
            report = self._reporter.connection(member)
            if query.states and report.state not in query.states:
                continue
            if len(found) == limit:
                return ConnectionPage(tuple(found), found[-1].id if found else after)
            found.append(report)
        return ConnectionPage(tuple(found))

    async def members(self, query: Query) -> AsyncGenerator[Member, None]:
        """The connections and flows that a query is about, listener by listener. Raises HandedOverError.

        Whoever asks may end them. They are found in slices: who comes meanwhile may be missed.
        """
        pace = Pace()
        for group in await self._groups(query, pace):
            for member in tuple(group.values()):
                if self._is_left:
                    raise HandedOverError
                if not _is_over(member) and asks_for_member(query, member):
                    yield member
                await pace.keep()
        if self._is_left:
            raise HandedOverError

    async def decisions(self, query: Query = ALL, last: int = 100) -> tuple[Decision, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        pace = Pace()
        newest: list[tuple[float, int, Entry]] = []
        for name, ring in self._recorder.rings():
            await pace.keep()
            if query.admits(name):
                for entry in tuple(ring):
                    if asks_for_decision(query, entry):
                        heapq.heappush(newest, (entry[0], next(self._order), entry))
                        if len(newest) > last:
                            heapq.heappop(newest)
                    await pace.keep()
        decisions = []
        while newest:
            decisions.append(self._reporter.decision(heapq.heappop(newest)[2]))
            await pace.keep()
        return tuple(decisions)

    @asynccontextmanager
    async def watch_decisions(self, query: Query = ALL, room: int = WATCH_ROOM) -> AsyncIterator[DecisionReader]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        reader = DecisionReader(query, room, self._reporter)
        self._recorder.decision_watches.append(reader)
        try:
            yield reader
        finally:
            self._recorder.decision_watches.remove(reader)

    @asynccontextmanager
    async def watch_connections(self, query: Query = ALL, room: int = WATCH_ROOM) -> AsyncIterator[ConnectionReader]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        reader = ConnectionReader(query, room, self._reporter)
        self._recorder.connection_watches.append(reader)
        try:
            yield reader
        finally:
            self._recorder.connection_watches.remove(reader)

    @asynccontextmanager
    async def capture(self, request: CaptureRequest, room: int = CAPTURE_ROOM) -> AsyncIterator[CaptureReader]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        members: list[Relay | UdpFlow] = []
        if request.connections is None:
            groups = await self._groups(request.query, Pace())
            members = [
                each for group in groups for each in group.values() if not _is_over(each) and not isinstance(each, Dial)
            ]
        async with self._captures.read(request, members, room) as reader:
            yield reader

    async def peek(self, listener: ListenerName, client: str, tried: tuple[Endpoint, ...] = ()) -> Choice:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        choice = self._listeners[listener].balancer.peek(client, self._tcp.loop.time(), tried)
        snapshot = self._snapshots.get(listener)
        if choice.endpoint is None or snapshot is None:
            return choice
        return self._with_source(choice, snapshot, client, choice.endpoint)

    def _with_source(self, choice: Choice, snapshot: Snapshot, client: str, endpoint: Endpoint) -> Choice:
        """The choice with what is to be said of the address that the endpoint would see."""
        sources = self._tcp.client_addresses.sources(snapshot)
        if sources is None:
            keeps, reason = NODE_ASKED_FOR
        else:
            found = sources.expect(client, endpoint)
            keeps, reason = found.keeps, found.reason
        return structs.replace(
            choice,
            source=Source.CLIENT if keeps else Source.NODE,
            source_address=client if keeps else source_address(endpoint),
            source_reason=reason,
            header=snapshot.accepts_proxy if client in self._tcp.introductions.trusted else None,
        )

    async def processes(self) -> tuple[ProcessFigures, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        figures = structs.replace(
            self.counts(),
            descriptors=count_descriptors(),
            pipes=self._tcp.pipes.made,
            loop_lag_seconds=self.loop_lag.worst,
            connections=self._tcp.active,
            flows=self._udp.active,
        )
        return (figures,)

    def counts(self) -> ProcessFigures:
        """What this process has counted; nothing of what it has now."""
        failures = {Protocol.TCP: self._tcp.poller.failures.count, Protocol.UDP: self._udp.poller.failures.count}
        return ProcessFigures(
            pid=os.getpid(),
            descriptors=0,
            descriptor_limit=self._descriptor_limit,
            evicted={Protocol.TCP: self._tcp.shares.evicted, Protocol.UDP: self._udp.evicted},
            handler_failures=failures,
            source_fallbacks=dict(self._tcp.client_addresses.fallbacks),
            faults=self._tcp.faults.count,
            faulted=self._tcp.faults.made,
        )

    async def lost_answers(self) -> tuple[LostAnswers, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        pace = Pace()
        found = []
        for pairs in self._tcp.client_addresses.pairs.values():
            for way in pairs.by_way():
                await pace.keep()
                pair = first_lost(way)
                if pair is not None and pair.lost_since is not None and pair.endpoint is not None:
                    since = self._reporter.unix_time(pair.lost_since)
                    interface, node, client, endpoint = pair.interface, pair.node, pair.client, pair.endpoint
                    found.append(LostAnswers(pairs.protocol, pairs.family, interface, node, since, client, endpoint))
        return tuple(found)

    async def ejected_endpoints(self) -> tuple[EjectedEndpoint, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        return tuple(
            EjectedEndpoint(name, each.endpoint, self._reporter.unix_time(each.since), each.reason)
            for name, balancer, each in self._board.ejected(self._tcp.loop.time())
            if name in self._listeners and self._listeners[name].balancer is balancer
        )

    async def held_clients(self) -> tuple[HeldClients, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        return tuple(self._tcp.places.report())

    async def balancer_faults(self) -> tuple[BalancerFault, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        return tuple(
            BalancerFault(name, balancer.name, balancer.fault)
            for name, balancer in self._board.faulty()
            if name in self._listeners and self._listeners[name].balancer is balancer
        )

    async def _figures(
        self, name: ListenerName, listener: Listener, flows: Sequence[FlowTable[UdpFlow]], pace: Pace
    ) -> ListenerFigures:
        if isinstance(listener, TcpListener | PortlessTcpListener):
            await _settle(listener.connections, pace)
        for flow in [flow for table in flows for flow in table]:
            flow.settle()
            await pace.keep()
        snapshot = self._snapshots.get(name)
        counters, balancer, now = listener.statistics, listener.balancer, self._tcp.loop.time()
        ejected = {each.endpoint: each.reason for each in balancer.ejected(now)}
        endpoints = [
            endpoint_figures(
                endpoint,
                counters.endpoints.get(endpoint),
                balancer.passed_over(endpoint, now),
                ejected.get(endpoint, ""),
            )
            async for endpoint in _in_slices(listener, snapshot, pace)
        ]
        verdict = Verdict.REJECT if snapshot is None else snapshot.verdict
        figures = figures_of(name, counters, verdict, endpoints, listener.port, balancer.affinity_entries)
        is_tcp = name.service_port.protocol is Protocol.TCP
        gate = self._tcp.shares.of(name.service_port).gate if is_tcp else None
        if gate is not None:
            waiting, queued = gate.waiting_at(name)
            figures = structs.replace(figures, waiting=waiting, queued=queued)
        return structs.replace(figures, ejections=balancer.ejections) if balancer.ejections else figures

    def _flows_by_listener(self) -> dict[ListenerName, list[FlowTable[UdpFlow]]]:
        tables: dict[ListenerName, list[FlowTable[UdpFlow]]] = {}
        for listener in self._udp.listeners:
            if listener.flows:
                tables.setdefault(listener.name, []).append(listener.flows)
        return tables

    async def _groups(self, query: Query, pace: Pace) -> list[Group]:
        """The connections and flows that a query may be about, listener by listener."""
        groups: list[Group] = []
        of_tcp = [each for each in self._listeners.values() if isinstance(each, TcpListener | PortlessTcpListener)]
        for each in (*(listener.connections for listener in of_tcp), *self._tcp.without_listener):
            await pace.keep()
            if each.members and query.admits_listener(each.name):
                groups.append(each.members)
        for name, tables in self._flows_by_listener().items():
            if query.admits_listener(name):
                groups += [{flow.id: flow for flow in tuple(table.by_client.values())} for table in tables]
        if query.connection:
            return [{query.connection: group[query.connection]} for group in groups if query.connection in group]
        return groups


def _after(group: Group, after: int) -> Iterator[tuple[int, Member]]:
    """The members of a group whose ids are above `after`, by id."""
    numbers = list(group)
    for index in range(bisect_right(numbers, after), len(numbers)):
        member = group.get(numbers[index])
        if member is not None:
            yield numbers[index], member


def _is_over(member: Member) -> bool:
    return member.counters is None if isinstance(member, UdpFlow) else member.closed


async def _in_slices(listener: Listener, snapshot: Snapshot | None, pace: Pace) -> AsyncIterator[Endpoint]:
    """The endpoints of a listener, and those that it has had and still counts."""
    listed = () if snapshot is None else snapshot.endpoints
    gone = [endpoint for endpoint, counters in listener.statistics.endpoints.items() if not counters.usable]
    for endpoint in (*listed, *gone):
        yield endpoint
        await pace.keep()


async def _settle(connections: Connections, pace: Pace) -> None:
    """Count what live connections have moved so far."""
    for member in list(connections.members.values()):
        if isinstance(member, Relay) and not member.closed:
            connections.settle(member)
        await pace.keep()
