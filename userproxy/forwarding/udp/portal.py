"""UDP at the addresses of portals themselves, for a portal driver that binds them (``--portals local``)."""

from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeAlias

from msgspec import structs

from userproxy.forwarding.ejection import several
from userproxy.forwarding.observation.counters import SharedCounts
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.plane import UdpPlane
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.forwarding.udp.sources.flow_sources import FlowSources
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Endpoint, ListenerName, Snapshot, Verdict
from userproxy.routing.balancer import Balancer
from userproxy.routing.balancers.loads import of_all

Sort: TypeAlias = Callable[[str], ListenerName | None]
"""Whose client an address is; None for nobody's."""


class PortlessUdpListener:
    """A service port's listener without a local port: clients come through its portals, which may be several."""

    port: Final = 0

    def __init__(self, name: ListenerName, balancer: Balancer) -> None:
        self.balancer = balancer
        self.statistics = UdpStatistics()
        self.snapshot = Snapshot(name, Verdict.REJECT)
        self.portals: set[UdpPortal] = set()
        self.counted: set[UdpPortal] = set()
        """Portals whose flows our statistics count, also those of other listeners there."""
        self._loads_at: set[PortlessUdpListener] = set()
        """The listeners whose statistics the balancer looks at."""
        self.shared: SharedCounts | None = None
        """Where other processes see what endpoints do for our clients."""

    def follow(self, snapshot: Snapshot) -> None:
        """Have the flows at all portals follow; the balancer knows the endpoints already."""
        self.snapshot = snapshot
        for portal in self.portals:
            portal.follow_listeners()

    def close(self) -> None:
        """Its portals are closed by now, and so are its flows."""
        self.share(None)

    def share(self, shared: SharedCounts | None) -> None:
        """Have other processes know what endpoints do for our clients, by `shared`; no longer, without it."""
        self.shared = shared
        for each in self._counting():
            each.share_again()

    def share_again(self) -> None:
        """Other listeners may have flows that our statistics count: have it known by what is shared of theirs, too."""
        listeners = {self, *(each for portal in self.counted for each in portal.served)}
        shared = [each.shared for each in listeners if each.shared is not None]
        self.statistics.endpoints.share(several.of_all(shared))

    def load_of(self, endpoint: Endpoint) -> tuple[int, int]:
        """How many flows an endpoint has had where our clients' are counted, and bytes that have come of it."""
        found = [each.statistics.endpoints.get(endpoint) for each in self._counting()]
        known = [each for each in found if each is not None]
        return sum(each.total for each in known), sum(each.bytes_down for each in known)

    def watch_loads(self) -> None:
        """Have the balancer know what endpoints have to do wherever our clients' flows are counted."""
        counting = {portal.first for portal in self.portals} or {self}
        if counting != self._loads_at:
            self._loads_at = counting
            self.balancer.watch(of_all([each.statistics.endpoints for each in counting]))

    def _counting(self) -> "set[PortlessUdpListener]":
        """The listeners whose statistics count flows of our clients."""
        return {self, *(portal.first for portal in self.portals)}


class BalancerBySource:
    """Has each client's endpoint chosen by the balancer of the listener whose client it is."""

    def __init__(self, sort: Sort, balancers: Mapping[ListenerName, Balancer]) -> None:
        self._sort = sort
        self._balancers = balancers

    def pick(self, client: str, now: float, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """As :meth:`Balancer.pick`; None also for a client that is nobody's."""
        name = self._sort(client)
        return None if name is None else self._balancers[name].pick(client, now, tried)

    def suspect(self, endpoint: Endpoint, now: float, reason: str) -> str:
        """As :meth:`Balancer.suspect`, for everybody's clients."""
        notes = [balancer.suspect(endpoint, now, reason) for balancer in self._balancers.values()]
        return next(filter(None, notes), "")

    def forget(self, client: str) -> None:
        """As :meth:`Balancer.forget`."""
        name = self._sort(client)
        if name is not None:
            self._balancers[name].forget(client)


class UdpPortal(UdpListener):
    """The socket at a portal, and the flows of its clients, whose listeners have no ports."""

    def __init__(
        self,
        plane: UdpPlane,
        sock: DatagramSocket,
        sort: Sort,
        listeners: Mapping[ListenerName, PortlessUdpListener],
    ) -> None:
        name, first = next(iter(listeners.items()))
        super().__init__(plane, name, sock, first.balancer, first.statistics, sock.getsockname())
        self.first = first
        """The listener whose statistics count all flows."""
        first.counted.add(self)
        self._sort = sort
        self._sources_by_listener: dict[ListenerName, FlowSources] = {}
        self._listeners: Mapping[ListenerName, PortlessUdpListener] = {}
        self.hand_to(sort, listeners)

    def hand_to(self, sort: Sort, listeners: Mapping[ListenerName, PortlessUdpListener]) -> None:
        """Serve new clients so. All listeners are of the same service port."""
        before = self._listeners.values()
        self._let_listeners_go()
        self._sort = sort
        self._listeners = listeners
        for listener in listeners.values():
            listener.portals.add(self)
        for listener in {*before, *listeners.values()}:
            listener.watch_loads()
        balancers = {name: listener.balancer for name, listener in listeners.items()}
        self.first.share_again()
        self.chooser = next(iter(balancers.values())) if len(balancers) == 1 else BalancerBySource(sort, balancers)
        self.follow_listeners()

    @property
    def served(self) -> Collection[PortlessUdpListener]:
        """The listeners that have clients here."""
        return self._listeners.values()

    def follow_listeners(self) -> None:
        """Let flows go on to the endpoints that any of the listeners has.

        Where a listener is to refuse its clients the driver closes the portal, or lets them in no longer; until then
        there is no endpoint for them.
        """
        snapshots = [listener.snapshot for listener in self._listeners.values()]
        serving = [each for each in snapshots if each.verdict is Verdict.SERVE]
        endpoints = tuple(dict.fromkeys(endpoint for each in serving for endpoint in each.endpoints))
        self.follow(structs.replace(snapshots[0], verdict=Verdict.SERVE, endpoints=endpoints))
        found = {each.listener: FlowSources.of(self.plane.client_addresses, each) for each in snapshots}
        self._sources_by_listener = {name: sources for name, sources in found.items() if sources is not None}

    def sources_of(self, client: str) -> FlowSources | None:
        """As the listener has it whose client this is."""
        name = self._sort(client) if self._sources_by_listener else None
        return None if name is None else self._sources_by_listener.get(name)

    def _opened(self) -> None:
        """It has no port of its own that an endpoint might name: portals as endpoints are the proxier's business."""

    def _watch_loads(self) -> None:
        """The balancers of its listeners look at those of other portals, too."""

    def _let_go(self) -> None:
        self._let_listeners_go()
        for listener in self._listeners.values():
            listener.watch_loads()
        self.first.counted.discard(self)
        self.first.share_again()

    def _let_listeners_go(self) -> None:
        for listener in self._listeners.values():
            listener.portals.discard(self)
