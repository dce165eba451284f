"""The interface of the data plane: opens, updates and closes listeners, and drains them."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random
from typing import Final, TypeVar

from msgspec import Struct

from userproxy.errors import PortUnavailableError
from userproxy.forwarding.affinity_tables import AffinityTables
from userproxy.forwarding.balancers.installed import InstalledBalancers
from userproxy.forwarding.balancers.tables import TablesToMake
from userproxy.forwarding.client_addresses import ClientAddresses
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.faults.faults import Faults
from userproxy.forwarding.handover import plain
from userproxy.forwarding.handover.giving import Giver
from userproxy.forwarding.handover.parts import AnyListener, Parts
from userproxy.forwarding.handover.taking import Taker
from userproxy.forwarding.holding.places import AllPlaces
from userproxy.forwarding.limits.flows import FlowLimits
from userproxy.forwarding.limits.gates import DEFAULT_PATIENCE, Gates
from userproxy.forwarding.observation.data_plane import LocalDataPlane
from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.portal_listeners import PortalListeners
from userproxy.forwarding.ports.listeners import ListenerPorts
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.forwarding.shares import Shares
from userproxy.forwarding.steering.local import LocalSteering
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.plane import TcpPlane
from userproxy.forwarding.tcp.portal import connections_of
from userproxy.forwarding.tcp.relays.accounts import TcpStatistics
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.groups.further import FurtherSockets
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.listener import PENDING_SECONDS, UdpListener
from userproxy.forwarding.udp.plane import UdpOptions, UdpPlane, flow_limits
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Admission, IPFamily, ListenerName, PortalAddress, Protocol, ReturnPath, Snapshot, Verdict
from userproxy.routing.balancer import Balancer
from userproxy.routing.balancers.board import BalancerBoard

Bound = TypeVar("Bound")

_LOOK_AT_FLOWS_EVERY: Final = 0.05
"""Seconds between two looks whether UDP clients still wait for answers."""


class ForwardingOptions(Struct, frozen=True):
    """How to forward. Times are seconds.

    `bind_addresses` is where listeners of each family bind; a family that is not there cannot be opened. Their ports
    are of `port_range`, or if that is empty of the kernel's, and keep off those of `kept_ports`.
    `portals_only` refuses clients that dial a listener's port itself; a connection half-open for
    `half_open_timeout` without moving a byte is reset; `descriptor_limit` is the process's limit of open files, of
    which `kept_descriptors` are for others in the process;
    `udp_timeout` is for flows, None for userproxy's own choice. With `bind_portals` listeners have no local ports, and
    clients come by the portals that are served. `node_name` is our own Node's.
    `trusted_proxies` are the networks whose PROXY headers are believed. `processes` is how many forward, of which this
    is one: UDP flows of all of them together are limited. Clients of a service port with limits wait for
    `queue_timeout` at most.
    """

    bind_addresses: Mapping[IPFamily, str]
    port_range: PortRange
    portals_only: bool
    half_open_timeout: float
    descriptor_limit: int
    udp_timeout: float | None = None
    kept_ports: tuple[PortRange, ...] = ()
    kept_descriptors: int = 0
    bind_portals: bool = False
    node_name: str = ""
    trusted_proxies: tuple[str, ...] = ()
    processes: int = 1
    queue_timeout: float = DEFAULT_PATIENCE


class Forwarder:
    """All listeners and connections of this process. To be used on the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ForwardingOptions, random: Random) -> None:
        self._loop = loop
        self._options = options
        self._random = random
        self._ports = ListenerPorts(options.port_range, options.kept_ports)
        self._poller = Poller(loop)
        self._budget = DescriptorBudget(
            loop, options.descriptor_limit, options.kept_descriptors, self._poller.close_now
        )
        self._shares = Shares(self._budget, loop.time, options.descriptor_limit)
        # uvloop's own time has milliseconds, and a dial takes less; both are CLOCK_MONOTONIC.
        self._recorder = Recorder(time.monotonic)
        self.client_addresses = ClientAddresses(options.node_name)
        """Which of them this host can keep, and what is learned of that."""
        gates = self._gates()
        self._tcp = TcpPlane(
            loop,
            self._poller,
            self._budget,
            self._shares,
            options.half_open_timeout,
            self._recorder,
            self.client_addresses,
            options.trusted_proxies,
            gates,
            AllPlaces(gates.column, options.processes),
        )
        flow_limit, flow_limit_per_listener = flow_limits(options.descriptor_limit, options.processes)
        self._udp = UdpPlane(
            loop,
            self._budget,
            UdpOptions(flow_limit, flow_limit_per_listener, options.udp_timeout),
            self._recorder,
            self.client_addresses,
            self._tcp.places,
            FlowLimits(gates.column, options.processes),
        )
        self._shares.flows = self._udp
        self._udp.make_room_elsewhere = self._shares.make_room_for_flow
        self._listen: Mapping[Protocol, Callable[[ListenerName, int | None, Verdict], AnyListener]] = {
            Protocol.TCP: self._listen_tcp,
            Protocol.UDP: self._listen_udp,
        }
        self._listeners: dict[ListenerName, AnyListener] = {}
        self._portals = self._portal_listeners()
        self._affinity = AffinityTables(loop)
        self._tables = TablesToMake(loop)
        self._board = BalancerBoard(self._tables.add)
        self._custom = InstalledBalancers(loop.call_soon_threadsafe)
        self._snapshots: dict[ListenerName, Snapshot] = {}
        self._unasked: dict[ListenerName, None] = {}
        """Listeners of another process that nobody has asked for since."""
        self._inherited: dict[ListenerName, tuple[str, list[int]]] = {}
        self._is_forsaken = False
        self.data_plane = LocalDataPlane(
            self._tcp,
            self._udp,
            self._recorder,
            self._listeners,
            self._snapshots,
            options.descriptor_limit,
            self._board,
        )
        """Answers what the listeners and connections of this process do."""
        self.faults = Faults(loop, self._poller, self._tcp, self._udp, self._listeners, random)
        self._tcp.faults = self._udp.faults = self.faults
        self.steering = LocalSteering(self.data_plane, self.faults, self._poller.failures)
        """Does with connections of this process what it is told."""
        self._parts = Parts(
            self._tcp,
            self._udp,
            self._recorder,
            self._listeners,
            self._snapshots,
            self._portals,
            self._affinity,
            self._balancer,
            options.portals_only,
            self.data_plane.closed,
        )

    @property
    def active(self) -> int:
        """Connections now, those still being dialled included."""
        return self._tcp.active

    @property
    def handler_failures(self) -> Mapping[Protocol, int]:
        """Clients and datagrams given up because of a bug, by protocol. May be read in any thread."""
        return {Protocol.TCP: self._poller.failures.count, Protocol.UDP: self._udp.poller.failures.count}

    @property
    def evicted(self) -> Mapping[Protocol, int]:
        """Connections and flows that have made room for others, by protocol. May be read in any thread."""
        return {Protocol.TCP: self._shares.evicted, Protocol.UDP: self._udp.evicted}

    @property
    def flows(self) -> int:
        """UDP flows now."""
        return self._udp.active

    def is_open(self, listener: ListenerName) -> bool:
        """Whether a listener is open."""
        return listener in self._listeners

    def statistics(self, listener: ListenerName) -> TcpStatistics | UdpStatistics:
        """The figures of an open listener. Raises KeyError if it is not open."""
        return self._listeners[listener].statistics

    def listening(self) -> Iterator[tuple[ListenerName, str, int]]:
        """Listeners with local ports that take clients: name, the address that they were opened at, and descriptor.

        A UDP one that has several sockets comes several times.
        """
        return plain.listening(self._parts)

    def leave_listeners(self) -> None:
        """Take no client from now on: another process does, by copies of the sockets. Connections and flows go on."""
        plain.leave(self._parts)

    def inherit(self, name: ListenerName, host: str, descriptor: int) -> None:
        """Have :meth:`open` use the socket of another process for a listener; several, in the order of these calls."""
        self._inherited.setdefault(name, (host, []))[1].append(descriptor)

    def hand_over(self) -> Giver:
        """What hands all of it over to another process, in an attempt that may come to nothing. Faults are over."""
        self.faults.end_now()
        return Giver(self._parts, self.faults.end_now)

    def take_over(self) -> Taker:
        """What takes all of it over from another process, as long as there is nothing here."""
        return Taker(self._parts)

    def went_on(self) -> None:
        """What was taken over is ours: listeners and portals are to be asked for, or go by `close_unasked`."""
        self._unasked = dict.fromkeys(self._listeners)

    def close_unasked(self, family: IPFamily) -> None:
        """Close the listeners and portals that were taken over and that nobody has asked for since."""
        self._portals.leave_unserved(family)
        for listener in [each for each in self._unasked if each.family is family]:
            self.close(listener)
        for name in [each for each in self._inherited if each.family is family]:
            for descriptor in self._inherited.pop(name)[1]:
                os.close(descriptor)

    @property
    def shares_sockets(self) -> bool:
        """Whether another process may have copies of connections' sockets."""
        return self._tcp.relays.shared

    @shares_sockets.setter
    def shares_sockets(self, shared: bool) -> None:
        self._tcp.relays.shared = shared

    def forsake(self) -> None:
        """Close our copies of all sockets: they are another process's by now, or still. No peer is told.

        The forwarder cannot be used afterwards, but for :meth:`shut_down`.
        """
        self._tcp.poller.shut_down()
        self._udp.poller.shut_down()
        self._stop_timers()
        for each in connections_of(self._listeners.values(), self._tcp):
            for member in each.members.values():
                member.forsake()
        for listener in self._listeners.values():
            if isinstance(listener, TcpListener | UdpListener):
                listener.forsake()
        self._portals.forsake()
        self._listeners.clear()
        self._tcp.without_listener.clear()
        self._is_forsaken = True

    def open(self, listener: ListenerName, preferred_port: int | None = None, verdict: Verdict = Verdict.REJECT) -> int:
        """Hold a port for a listener and return its number: `preferred_port` if it is free; 0 where it needs none.

        `verdict` is that of its first snapshot, which is to follow in the same turn of the loop. Until then a UDP
        listener refuses its clients. Raises PortUnavailableError.
        """
        if listener in self._unasked:
            del self._unasked[listener]
            return self._listeners[listener].port
        listen = self._listen.get(listener.service_port.protocol)
        if listen is None:
            raise PortUnavailableError(f"{listener.service_port.protocol} is not forwarded")
        if self._options.bind_portals:
            self._listeners[listener] = self._portals.listener(listener, self._balancer())
            return 0
        self.take_for_port()
        try:
            opened = listen(listener, preferred_port, verdict)
        except PortUnavailableError:
            self.give_port()
            raise
        self._listeners[listener] = opened
        return opened.port

    @property
    def room_for_ports(self) -> int:
        """How many more listeners and claims there may be, which have two thirds of all descriptors."""
        return self._budget.room_for_ports

    def take_for_port(self) -> None:
        """Count a descriptor that a port is held with. Raises OutOfDescriptorsError where there is none for it."""
        self._budget.hold_port()

    def adopt_port(self) -> None:
        """Count a descriptor of another process that a port is held with."""
        self._budget.adopt_port()

    def give_port(self) -> None:
        """A port is no longer held."""
        self._budget.give_port()

    def keep_off(self, port: int) -> None:
        """Open no listener on a port that a Service has as a node port, from now on."""
        self._ports.keep_off(port)

    def update(self, snapshot: Snapshot) -> None:
        """Treat new connections of a listener by `snapshot`; one that a drain has closed gets none.

        Established ones stay, unless the snapshot says which endpoints are known: those to others are reset,
        also where this service port had a listener that is closed by now.
        """
        listener = self._listeners.get(snapshot.listener)
        if listener is not None:
            self._snapshots[snapshot.listener] = snapshot
            listener.balancer.update(snapshot)
            listener.follow(snapshot)
        if snapshot.known is not None:
            name = snapshot.listener
            self._tcp.end_unknown(name.service_port, name.family, frozenset(snapshot.known))

    def follow_return_path(self, path: ReturnPath) -> None:
        """Make new connections and flows of a family from clients' addresses wherever this host can, from now on.

        Until it is first called they come from the node's address. Raises ValueError for networks that are none.
        """
        self.client_addresses.follow(path)

    def close(self, listener: ListenerName) -> None:
        """Stop listening; established connections go on."""
        self._unasked.pop(listener, None)
        closing = self._listeners.pop(listener)
        self._snapshots.pop(listener, None)
        self._portals.discard(listener)
        self._ports.release(closing.port)
        closing.close()
        closing.balancer.retire()
        self.data_plane.closed.add(listener, closing.statistics)

    def serve_portal(self, address: PortalAddress, admission: Admission) -> None:
        """Listen at a portal itself and hand its clients to listeners that are open, from now on.

        Where the service port is served there already its clients see no difference. Raises PortUnavailableError where
        the port is taken or there is no descriptor for it, and ObjectError where the admission has too many networks.
        """
        self._portals.serve(address, admission)

    def leave_portal(self, address: PortalAddress) -> None:
        """Listen at a portal no longer, if that was so; connections go on, and flows end."""
        self._portals.leave(address)

    def recount_descriptors(self) -> None:
        """Count descriptors anew, because the rest of the process has opened or closed some."""
        self._budget.recount()

    async def drain(self, seconds: float) -> int:
        """Stop accepting, wait until all connections have ended, at most `seconds`; then reset the rest.

        Returns how many were reset. UDP clients are served until then, and at the end those that have just asked are
        waited for: their flows have no other socket for an answer.
        """
        self._portals.close(Protocol.TCP)
        for name in [name for name in self._listeners if name.service_port.protocol is not Protocol.UDP]:
            self.close(name)
        end = self._loop.time() + seconds
        try:
            async with asyncio.timeout_at(end):
                await self._tcp.idle.wait()
        except TimeoutError:
            pass
        reset = self.reset_connections()
        end = min(end, self._loop.time() + PENDING_SECONDS)
        while self._udp.pending and self._loop.time() < end:  # noqa: ASYNC110 -- flows end without a word
            await asyncio.sleep(_LOOK_AT_FLOWS_EVERY)
        self._portals.close(Protocol.UDP)
        for name in list(self._listeners):
            self.close(name)
        return reset

    def reset_connections(self) -> int:
        """End all connections with a RST; returns how many they were."""
        return sum(each.reset() for each in connections_of(self._listeners.values(), self._tcp))

    def shut_down(self) -> None:
        """Close all sockets and cancel all timers. The forwarder cannot be used afterwards."""
        if self._is_forsaken:
            return
        for protocol in Protocol:
            self._portals.close(protocol)
        for listener in list(self._listeners):
            self.close(listener)
        self.reset_connections()
        self._stop_timers()
        self._udp.shut_down()
        self._poller.shut_down()

    def _gates(self) -> Gates:
        return Gates(self._loop, self._options.queue_timeout)

    def _stop_timers(self) -> None:
        self._budget.shut_down()
        self.faults.shut_down()
        self._tcp.shut_down()
        self._affinity.shut_down()
        self._tables.stop()
        self.data_plane.loop_lag.stop()

    def _portal_listeners(self) -> PortalListeners:
        return PortalListeners(self._tcp, self._udp, self.take_for_port, self.give_port)

    def _listen_tcp(self, name: ListenerName, preferred_port: int | None, verdict: Verdict) -> AnyListener:
        inherited = self._inherited.pop(name, None)
        if inherited is not None:
            sock = ListeningSocket(inherited[1][0])
            sock.set_verdict(verdict)
        else:
            sock = self._bind(partial(ListeningSocket.open, verdict=verdict), name.family, preferred_port)
        connections = Connections(self._tcp, name, self._balancer())
        try:
            return TcpListener(self._tcp, sock, connections, portals_only=self._options.portals_only, verdict=verdict)
        except OSError as error:
            sock.close()
            raise PortUnavailableError(f"its listener cannot be watched: {error.strerror}") from error

    def _listen_udp(self, name: ListenerName, preferred_port: int | None, _verdict: Verdict) -> AnyListener:
        inherited = self._inherited.pop(name, None)
        if inherited is not None:
            group = DatagramGroup.adopt(inherited[1], inherited[0])
        else:
            group = self._bind(DatagramGroup.open, name.family, preferred_port)
        sock = group.members[0]
        portal = None if self._options.portals_only else sock.getsockname()
        listener = UdpListener(self._udp, name, sock, self._balancer(), UdpStatistics(), portal)
        listener.further = FurtherSockets.of(group, self._udp.poller, listener)
        return listener

    def _balancer(self) -> Balancer:
        return Balancer(self._random, self._affinity.of, self._board, self._custom)

    def _bind(self, bind: Callable[[str, int], Bound], family: IPFamily, preferred_port: int | None) -> Bound:
        host = self._options.bind_addresses.get(family)
        if host is None:
            raise PortUnavailableError(f"there is no address to bind {family} listeners to")
        return self._ports.bind(bind, host, preferred_port, self._random)
