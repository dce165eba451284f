"""The forwarder of a data process: its listeners are copies of sockets that the control process has opened."""

import asyncio
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Final

from userproxy.forwarding.accept_turns import AcceptTurns
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.handover.giving import Giver
from userproxy.forwarding.handover.parts import AnyListener
from userproxy.forwarding.handover.taking import Taker
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.forwarding.limits.gates import Gates
from userproxy.forwarding.observation.counters import SharedCounts
from userproxy.forwarding.portal_listeners import PortalListeners, SharedPortalListeners
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.shared import SharedTcpListener
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.groups.further import inode_of
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.listening.clients import PENDING_SECONDS
from userproxy.forwarding.udp.portal import PortlessUdpListener
from userproxy.forwarding.udp.shared import SharedUdpListener
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Admission, Endpoint, ListenerName, PortalAddress, Protocol, ServicePortName, Verdict
from userproxy.routing.balancer import Balancer
from userproxy.routing.balancers.ejections import Ejected
from userproxy.routing.balancers.shared.mirror import Decider

_LOOK_AT_FLOWS_EVERY: Final = 0.05

_LOOKED_AT_ONCE: Final = 16
"""To look at so many sockets takes as long as a slice of work."""


class SharingForwarder(Forwarder):
    """Listeners whose sockets other processes may serve, too. To be used on the loop's thread only.

    Ids of connections begin after `last_id`. `turns` says who accepts next, and `counts` how many clients of a service
    port with limits all have.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: ForwardingOptions,
        random: Random,
        turns: AcceptTurns,
        last_id: int = 0,
        counts: LimitCounts | None = None,
    ) -> None:
        self._turns = turns
        self._counts = counts
        super().__init__(loop, options, random)
        self._recorder.last_id = last_id
        self._tcp.poller.copied = False  # a data process starts no programs
        self._elsewhere: dict[ListenerName, int] = {}
        """The local ports of listeners that other processes serve alone."""
        self._members: dict[ListenerName, tuple[int, ...]] = {}
        """The numbers of the sockets that listeners have here, of a group's."""
        self._inodes: dict[ListenerName, Mapping[int, int]] = {}
        """The same by the numbers of their inodes, where there are several."""
        self._all: dict[ListenerName, AnyListener] = {}
        """Listeners that were forsaken, and that still have their sockets where they had no client."""

    def adopt(self, name: ListenerName, number: int, members: Sequence[int], descriptors: Sequence[int]) -> None:
        """Serve a listener from copies of its sockets, or from portals alone where it has none of its own.

        Several are those `members` of a UDP listener's group that are read here. Clients wait for its first snapshot.
        `number` is that of its figures. Takes over the descriptors. A listener that is served already goes on with
        these sockets. Raises OSError where the kernel can watch no more; then a new listener is not served.
        """
        self.forget_elsewhere(name)
        self._members[name] = tuple(members)
        self._inodes.pop(name, None)
        if len(members) > 1:
            self._inodes[name] = {inode_of(each): member for each, member in zip(descriptors, members, strict=True)}
        if self._goes_on(name, descriptors):
            self._listeners[name].statistics.number = number
            return
        if name in self._listeners:
            self.leave(name)
        if not descriptors:
            opened: AnyListener = self._portals.listener(name, self._balancer())
        elif name.service_port.protocol is Protocol.UDP:
            opened = self._adopt_udp(name, descriptors)
        else:
            opened = self._adopt_tcp(name, ListeningSocket(descriptors[0]))
        opened.statistics.number = number
        self._listeners[name] = opened

    def opened(self, name: ListenerName) -> AnyListener:
        """A listener that is served here. Raises KeyError for any other."""
        return self._listeners[name]

    def opened_portal(self, address: PortalAddress) -> TcpListener | UdpListener | None:
        """What serves at a portal, if anything does."""
        return self._shared_portals.opened(address)

    def forsake(self) -> None:
        """As :meth:`Forwarder.forsake`, but for listeners that have no client, which accept nobody any more.

        Their copies go with this process, which ends: to close 10,000 takes 20 ms, while another process begins.
        """
        self.data_plane.leave()
        listeners = self._listeners
        self._all = listeners.copy()
        listeners.clear()
        for name, each in self._all.items():
            if isinstance(each, SharedTcpListener) and not each.statistics.active and not each.holds:
                each.accept_nobody()
            else:  # it has clients, or sockets beside the one that listens
                listeners[name] = each
        super().forsake()

    def hand_over(self) -> Giver:
        """As :meth:`Forwarder.hand_over`, without the sockets of listeners and portals."""
        return Giver(self._parts, self.faults, shares=True)

    def take_over(self) -> Taker:
        """As :meth:`Forwarder.take_over`; listeners and portals are to be adopted."""
        return Taker(self._parts, shares=True)

    def number_from(self, last_id: int) -> None:
        """Have ids of connections begin after `last_id` from now on."""
        self._recorder.last_id = last_id

    @property
    def open_listeners(self) -> Collection[ListenerName]:
        """The listeners that are served here."""
        return self._listeners.keys()

    def shared_sockets(self) -> Iterator[tuple[ListenerName, str, int, int]]:
        """The sockets of listeners that take clients: the address that one is bound to, its member and descriptor."""
        for name, listener in self._listeners.items():
            snapshot = self._snapshots.get(name)
            is_open = snapshot is not None and snapshot.verdict is Verdict.SERVE
            if is_open and isinstance(listener, SharedTcpListener | SharedUdpListener):
                host = str(listener.socket.getsockname()[0])
                more = listener.further if isinstance(listener, SharedUdpListener) else None
                descriptors = [listener.socket.fileno(), *(more.descriptors if more is not None else ())]
                inodes = self._inodes.get(name)
                for descriptor in descriptors:
                    member = self._members[name][0] if inodes is None else inodes[inode_of(descriptor)]
                    yield name, host, member, descriptor

    def shared_portals(self) -> Iterator[tuple[ListenerName, PortalAddress, tuple[int, int], int]]:
        """The sockets of UDP portals: one whose clients come there, the member of how many, and the descriptor."""
        return self._shared_portals.shared()

    def place_limits(self, service_port: ServicePortName, slot: int | None) -> None:
        """Where all count the clients of a service port; None where there is no room, or no limit."""
        self._tcp.gates.place(self._tcp.shares.of(service_port), slot)
        self._tcp.places.placed(service_port)
        self._udp.flow_limits.placed(service_port)

    def decide_ejections_elsewhere(self, decider: Decider) -> None:
        """Have all balancers tell of endpoints that fail. Before there are any."""
        self._balancing.board.decider = decider

    def balancer_of(self, name: ListenerName) -> Balancer | None:
        """The balancer of a listener that is served here."""
        listener = self._listeners.get(name)
        return None if listener is None else listener.balancer

    def load_of(self, name: ListenerName, endpoint: Endpoint) -> tuple[int, int]:
        """How many connections or flows an endpoint of a listener has had here, and bytes of those that ended."""
        listener = self._listeners.get(name)
        if isinstance(listener, PortlessUdpListener):
            return listener.load_of(endpoint)
        counters = None if listener is None else listener.statistics.endpoints.get(endpoint)
        return (0, 0) if counters is None else (counters.total, counters.bytes_down)

    def share_counts(self, name: ListenerName, shared: SharedCounts | None) -> None:
        """Have other processes know what endpoints of a listener do here, by `shared`; no longer, without it."""
        listener = self._listeners.get(name)
        if isinstance(listener, PortlessUdpListener):
            listener.share(shared)
        elif listener is not None:
            listener.statistics.endpoints.share(shared)

    def ejected(self) -> Mapping[ListenerName, tuple[Ejected, ...]]:
        """The endpoints that are ejected, by listener."""
        found: dict[ListenerName, tuple[Ejected, ...]] = {}
        for name, _, each in self._balancing.board.ejected(self._loop.time()):
            found[name] = (*found.get(name, ()), each)
        return found

    def leave(self, name: ListenerName) -> None:
        """Serve a listener no longer, because another process does so alone. Connections go on, UDP flows end."""
        listener = self._listeners.get(name)
        if isinstance(listener, SharedTcpListener):
            listener.leave()
        if listener is not None:
            self.close(name)

    def leave_to_successor(self, name: ListenerName) -> None:
        """Take no client of a listener from now on, and close it: at once, or when UDP clients who wait are answered.

        They are waited for as at the end of a drain.
        """
        listener = self._listeners[name]
        if isinstance(listener, UdpListener):
            listener.leave_clients()
            self._close_answered(name, listener, self._loop.time() + PENDING_SECONDS)
        else:
            self.close(name)

    def _close_answered(self, name: ListenerName, listener: AnyListener, end: float) -> None:
        if self._listeners.get(name) is not listener:
            return
        if isinstance(listener, UdpListener) and listener.pending and self._loop.time() < end:
            self._loop.call_later(_LOOK_AT_FLOWS_EVERY, self._close_answered, name, listener, end)
        else:
            self.close(name)

    def note_elsewhere(self, name: ListenerName, host: str, port: int) -> None:
        """Dial no endpoint that is a listener which another process serves alone."""
        self.forget_elsewhere(name)
        self._elsewhere[name] = port
        plane = self._tcp if name.service_port.protocol is Protocol.TCP else self._udp
        plane.listener_addresses.add(name.family, host, port)

    def forget_elsewhere(self, name: ListenerName) -> None:
        """Forget what was noted of a listener, if anything was."""
        port = self._elsewhere.pop(name, None)
        if port is not None:
            plane = self._tcp if name.service_port.protocol is Protocol.TCP else self._udp
            plane.listener_addresses.discard(name.family, port)

    def adopt_portal(
        self,
        address: PortalAddress,
        admission: Admission,
        descriptors: Sequence[int],
        members: Sequence[int] = (0,),
        size: int = 1,
    ) -> None:
        """Serve a portal from copies of its sockets, which are those `members` of a group of `size`.

        Takes over the descriptors. Raises PortUnavailableError.
        """
        self._shared_portals.share(address, admission, descriptors, members, size)

    def follow_portal(self, address: PortalAddress, admission: Admission) -> None:
        """Treat new clients of a portal by another admission of the same service port."""
        self._shared_portals.follow(address, admission)

    def deliver(
        self, name: ListenerName, portal: PortalAddress | None, datagrams: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Serve clients of a listener, or of a portal of it, whose datagrams have come to another process."""
        listener = self._listeners.get(name) if portal is None else self.opened_portal(portal)
        if isinstance(listener, UdpListener):
            for addresses, payload in datagrams:
                listener.deliver(addresses, payload)

    def look(self) -> None:
        """Look at all sockets, some in each turn of the loop: who has ended may have been told of clients."""
        shared = [each for each in self._listeners.values() if isinstance(each, SharedTcpListener)]
        self._look_at(iter([*shared, *self._shared_portals.tcp_portals()]))

    def _look_at(self, left: Iterator[SharedTcpListener]) -> None:
        some = list(islice(left, _LOOKED_AT_ONCE))
        for listener in some:
            listener.look()
        if some:
            self._loop.call_soon(self._look_at, left)

    def close(self, listener: ListenerName) -> None:
        """Stop listening; established connections go on."""
        self._members.pop(listener, None)
        self._inodes.pop(listener, None)
        super().close(listener)

    def _goes_on(self, name: ListenerName, descriptors: Sequence[int]) -> bool:
        """Whether a listener is served already, and with these sockets from now on."""
        listener = self._listeners.get(name)
        if isinstance(listener, SharedUdpListener) and descriptors:
            listener.read_from(descriptors)
            return True
        if isinstance(listener, SharedTcpListener) and descriptors:
            if not os.path.sameopenfile(listener.socket.fileno(), descriptors[0]):
                return False
            os.close(descriptors[0])
            return True
        return listener is not None and not descriptors

    def _gates(self) -> Gates:
        return Gates(self._loop, self._options.queue_timeout, self._options.processes, self._counts)

    def _portal_listeners(self) -> PortalListeners:
        take, give = self._budget.count_port, self.give_port
        self._shared_portals = SharedPortalListeners(self._tcp, self._udp, take, give, self._turns)
        return self._shared_portals

    def _adopt_tcp(self, name: ListenerName, sock: ListeningSocket) -> AnyListener:
        self._budget.count_port()
        connections = Connections(self._tcp, name, self._balancer())
        portals_only = self._options.portals_only
        try:
            return SharedTcpListener(self._tcp, sock, connections, self._turns, portals_only=portals_only)
        except OSError:
            sock.close()
            self.give_port()
            raise

    def _adopt_udp(self, name: ListenerName, descriptors: Sequence[int]) -> AnyListener:
        self._budget.count_port()
        sock = DatagramSocket(descriptors[0])
        portal = None if self._options.portals_only else sock.getsockname()
        listener = SharedUdpListener(self._udp, name, sock, self._balancer(), UdpStatistics(), portal)
        if len(descriptors) > 1:
            listener.read_from([os.dup(sock.fileno()), *descriptors[1:]])
        return listener
