"""The interface of the data plane: opens, updates and closes listeners, and drains them."""

import asyncio
from collections.abc import Iterator, Mapping
from random import Random
from typing import Final

from userproxy.errors import PortUnavailableError
from userproxy.forwarding.assembly.balancing import Balancing
from userproxy.forwarding.assembly.opening import Opening
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.assembly.planes import make_planes
from userproxy.forwarding.faults.faults import Faults
from userproxy.forwarding.handover import plain
from userproxy.forwarding.handover.giving import Giver
from userproxy.forwarding.handover.noting import SnapshotWatch
from userproxy.forwarding.handover.parts import AnyListener, Parts
from userproxy.forwarding.handover.taking import Taker
from userproxy.forwarding.limits.gates import Gates
from userproxy.forwarding.observation.data_plane import LocalDataPlane
from userproxy.forwarding.portal_listeners import PortalListeners
from userproxy.forwarding.steering.local import LocalSteering
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.portal import connections_of
from userproxy.forwarding.tcp.relays.accounts import TcpStatistics
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.listening.clients import PENDING_SECONDS
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Admission, IPFamily, ListenerName, PortalAddress, Protocol, ReturnPath, Snapshot, Verdict

_LOOK_AT_FLOWS_EVERY: Final = 0.05
"""Seconds between two looks whether UDP clients still wait for answers."""


class Forwarder:
    """All listeners and connections of this process. To be used on the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ForwardingOptions, random: Random) -> None:
        self._loop = loop
        self._options = options
        planes = make_planes(loop, options, self._gates())
        common = planes.common
        self._tcp, self._udp, self._poller = planes.tcp, planes.udp, common.poller
        self._budget, self._shares, self._recorder = common.budget, common.shares, common.recorder
        self.client_addresses = common.client_addresses
        """Which of them this host can keep, and what is learned of that."""
        self._balancing = Balancing(loop, random)
        self._balancer = self._balancing.balancer
        self._opening = Opening(planes, options, random, self._balancer)
        self._listeners: dict[ListenerName, AnyListener] = {}
        self._portals = self._portal_listeners()
        self._snapshots: dict[ListenerName, Snapshot] = {}
        self._snapshot_watches: list[SnapshotWatch] = []
        self._unasked: dict[ListenerName, AnyListener] = {}
        """Listeners of another process that nobody has asked for since."""
        self._is_forsaken = False
        self.data_plane = LocalDataPlane(
            self._tcp,
            self._udp,
            self._recorder,
            self._listeners,
            self._snapshots,
            options.descriptor_limit,
            self._balancing.board,
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
            self._balancing.affinity,
            self._balancer,
            options.portals_only,
            self.data_plane.closed,
            self._snapshot_watches,
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
        self._opening.inherit(name, host, descriptor)

    def hand_over(self) -> Giver:
        """What hands all of it over to another process, in an attempt that may come to nothing. No fault meanwhile."""
        return Giver(self._parts, self.faults)

    def take_over(self) -> Taker:
        """What takes all of it over from another process, as long as there is nothing here."""
        return Taker(self._parts)

    def went_on(self) -> None:
        """What was taken over is ours: listeners and portals are to be asked for, or go by `close_unasked`."""
        self._unasked = self._listeners.copy()

    def close_unasked(self, family: IPFamily) -> None:
        """Close the listeners and portals that were taken over and that nobody has asked for since."""
        self._portals.leave_unserved(family)
        for listener in [each for each in self._unasked if each.family is family]:
            self.close(listener)
        self._opening.close_inherited(family)

    @property
    def shares_sockets(self) -> bool:
        """Whether another process may have copies of connections' sockets."""
        return self._tcp.relays.shared

    @shares_sockets.setter
    def shares_sockets(self, shared: bool) -> None:
        self._tcp.relays.shared = shared

    def forsake(self) -> None:
        """Close our copies of all sockets: they are another process's by now, or still. No peer is told.

        The forwarder cannot be used afterwards, but for :meth:`shut_down`, and its data plane says what was counted.
        """
        self.data_plane.leave()
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
        if not self._opening.forwards(listener.service_port.protocol):
            raise PortUnavailableError(f"{listener.service_port.protocol} is not forwarded")
        if self._options.bind_portals:
            self._listeners[listener] = self._portals.listener(listener, self._balancer())
            return 0
        self.take_for_port()
        try:
            opened = self._opening.open(listener, preferred_port, verdict)
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
        self._opening.ports.keep_off(port)

    def update(self, snapshot: Snapshot) -> None:
        """Treat new connections of a listener by `snapshot`; one that a drain has closed gets none.

        Established ones stay, unless the snapshot says which endpoints are known: those to others are reset,
        also where this service port had a listener that is closed by now.
        """
        listener = self._listeners.get(snapshot.listener)
        if listener is not None and self._snapshots.get(snapshot.listener) == snapshot:
            listener.statistics.endpoints.forget_gone()
        elif listener is not None:
            self._snapshots[snapshot.listener] = snapshot
            listener.balancer.update(snapshot)
            listener.follow(snapshot)
            for watch in self._snapshot_watches:
                watch.renewed(snapshot.listener)
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
        self._opening.ports.release(closing.port)
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

    def stand_aside(self, family: IPFamily) -> None:
        """Leave the clients of UDP portals that are listened on to a successor, which has sockets there."""
        self._portals.stand_aside(family)

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

    def _portal_listeners(self) -> PortalListeners:
        return PortalListeners(self._tcp, self._udp, self.take_for_port, self.give_port)

    def _stop_timers(self) -> None:
        self._budget.shut_down()
        self.faults.shut_down()
        self._tcp.shut_down()
        self._balancing.shut_down()
        self.data_plane.loop_lag.stop()
