"""Which portals are listened on themselves, for a portal driver that binds them (``--portals local``).

The listener of a service port then has no local port. It has endpoints, statistics and connections, and a socket here
for each portal that leads to it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from userproxy.addresses import family_of
from userproxy.errors import ObjectError, PortUnavailableError
from userproxy.forwarding.accept_turns import AcceptTurns
from userproxy.forwarding.admission import admits_everybody, attach, detach, program_for, sorted_by
from userproxy.forwarding.listener_addresses import address_on_this_node
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.plane import TcpPlane
from userproxy.forwarding.tcp.portal import ConnectionsBySource, PortlessTcpListener, TcpPortal
from userproxy.forwarding.tcp.shared import SharedTcpPortal
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.groups.further import inode_of
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.plane import UdpPlane
from userproxy.forwarding.udp.portal import PortlessUdpListener, Sort, UdpPortal
from userproxy.forwarding.udp.shared import SharedUdpPortal
from userproxy.forwarding.udp.sockets import DatagramSocket, stand_aside
from userproxy.model import Admission, Endpoint, IPFamily, ListenerName, PortalAddress, Protocol
from userproxy.routing.balancer import Balancer

PortlessListener: TypeAlias = PortlessTcpListener | PortlessUdpListener
PortalSocket: TypeAlias = ListeningSocket | DatagramSocket


class _Portal:
    """One that is listened on. `listener` is None where nobody's clients are let in."""

    __slots__ = ("admission", "listener", "sock")

    def __init__(self, sock: PortalSocket, admission: Admission, listener: TcpPortal | UdpPortal | None) -> None:
        self.sock = sock
        self.admission = admission
        self.listener = listener

    @property
    def sockets(self) -> Iterable[PortalSocket]:
        """All that take its clients, where another process has had several."""
        if isinstance(self.listener, UdpPortal) and self.listener.further is not None:
            return (self.sock, *self.listener.further.sockets)
        return (self.sock,)


class PortalListeners:
    """All sockets at portals of a process.

    `take` accounts for the descriptor of each and raises OutOfDescriptorsError where there is none; `give` gives it
    back.
    """

    def __init__(self, tcp: TcpPlane, udp: UdpPlane, take: Callable[[], None], give: Callable[[], None]) -> None:
        self._tcp = tcp
        self._udp = udp
        self._take = take
        self._give = give
        self._tcp_listeners: dict[ListenerName, PortlessTcpListener] = {}
        self._udp_listeners: dict[ListenerName, PortlessUdpListener] = {}
        self._portals: dict[PortalAddress, _Portal] = {}
        self.adopted: dict[PortalAddress, None] = {}
        """Portals of another process that nobody has asked for since."""

    def listener(self, name: ListenerName, balancer: Balancer) -> PortlessListener:
        """A new listener without a port, for portals to lead to until :meth:`discard`."""
        if name.service_port.protocol is Protocol.TCP:
            tcp = self._tcp_listeners[name] = PortlessTcpListener(self._tcp, name, balancer)
            return tcp
        udp = self._udp_listeners[name] = PortlessUdpListener(name, balancer)
        return udp

    def discard(self, name: ListenerName) -> None:
        """Lead no portal to this listener any more."""
        self._tcp_listeners.pop(name, None)
        self._udp_listeners.pop(name, None)

    def serve(self, address: PortalAddress, admission: Admission) -> None:
        """Listen at `address` and treat new clients by `admission`, whose listeners are all of one service port.

        Where that service port is served there already its clients see no difference. Raises PortUnavailableError
        where the port is taken or there are no descriptors, and ObjectError where the kernel cannot tell so many
        networks apart.
        """
        portal = self._portals.get(address)
        self.adopted.pop(address, None)
        try:
            instructions = program_for(admission)
            if portal is not None and is_same_service(portal.admission, admission):
                restrict(portal.sockets, portal.admission, instructions)
                self._go_on(portal, address, admission)
                return
        except ObjectError:
            self.leave(address)  # else those whom it had let in before would go on to be
            raise
        except OSError as error:  # of memory for programs a process has little (net.core.optmem_max)
            self.leave(address)
            raise PortUnavailableError(f"{address} cannot be restricted: {error.strerror}") from error
        self.leave(address)
        self._take()
        try:
            self._portals[address] = self._watched(address, admission, open_portal(address, instructions))
        except BaseException:
            self._give()
            raise

    def open_portals(
        self,
    ) -> Iterator[tuple[PortalAddress, Admission, Iterable[PortalSocket], TcpPortal | UdpPortal | None]]:
        """All portals: who is let in, the sockets, and what serves there."""
        for address, portal in self._portals.items():
            yield address, portal.admission, portal.sockets, portal.listener

    def opened(self, address: PortalAddress) -> TcpPortal | UdpPortal | None:
        """What serves at a portal, if anything does."""
        portal = self._portals.get(address)
        return None if portal is None else portal.listener

    def adopt(
        self, address: PortalAddress, admission: Admission, descriptors: Sequence[int]
    ) -> TcpPortal | UdpPortal | None:
        """Go on with the sockets of another process, whose listeners are all adopted already."""
        self.adopted[address] = None
        return self._adopt(address, admission, descriptors).listener

    def forsake(self) -> None:
        """Close our copies of the sockets: they are another process's."""
        for portal in self._portals.values():
            if portal.listener is not None:
                portal.listener.forsake()
            else:
                portal.sock.close()
        self._portals.clear()

    def leave_unserved(self, family: IPFamily) -> None:
        """Listen no longer at what was adopted and nobody has asked for since."""
        for address in [each for each in self.adopted if is_of(each, family)]:
            self.leave(address)

    def leave(self, address: PortalAddress) -> None:
        """Listen at `address` no longer. TCP connections go on, UDP flows end."""
        portal = self._portals.pop(address, None)
        self.adopted.pop(address, None)
        if portal is None:
            return
        if portal.listener is not None:
            portal.listener.close()
        else:
            portal.sock.close()
            self._give()

    def stand_aside(self, family: IPFamily) -> None:
        """Leave the clients of UDP portals to another process, which has sockets there. Flows go on to be answered."""
        for address, portal in self._portals.items():
            if is_of(address, family):
                stand_aside(portal.sockets)

    def close(self, protocol: Protocol) -> None:
        """Listen at no portal of this protocol any longer."""
        for address in [address for address in self._portals if address.protocol is protocol]:
            self.leave(address)

    def _adopt(self, address: PortalAddress, admission: Admission, descriptors: Sequence[int]) -> _Portal:
        kind = ListeningSocket if address.protocol is Protocol.TCP else DatagramSocket
        first, *others = [kind(each) for each in descriptors]
        portal = self._portals[address] = self._watched(address, admission, first)
        if isinstance(portal.listener, UdpPortal) and others:
            portal.listener.read_also([each.detach() for each in others])
        return portal

    def _watched(self, address: PortalAddress, admission: Admission, sock: PortalSocket) -> _Portal:
        listener: TcpPortal | UdpPortal | None = None
        if admission.listeners and isinstance(sock, ListeningSocket):
            try:
                listener = self._tcp_portal(sock, self._connections(address, admission))
            except OSError as error:
                sock.close()
                raise PortUnavailableError(f"{address} cannot be watched: {error.strerror}") from error
        elif admission.listeners and isinstance(sock, DatagramSocket):
            listener = self._udp_portal(sock, _sort(address, admission), self._listeners_of(admission))
        return _Portal(sock, admission, listener)

    def _go_on(self, portal: _Portal, address: PortalAddress, admission: Admission) -> None:
        portal.admission = admission
        self._hand_over(portal.listener, address, admission)

    def _tcp_portal(self, sock: ListeningSocket, connections: Connections) -> TcpPortal:
        return TcpPortal(self._tcp, sock, connections)

    def _udp_portal(
        self, sock: DatagramSocket, sort: Sort, listeners: Mapping[ListenerName, PortlessUdpListener]
    ) -> UdpPortal:
        return UdpPortal(self._udp, sock, sort, listeners)

    def _hand_over(self, listener: TcpPortal | UdpPortal | None, address: PortalAddress, admission: Admission) -> None:
        if isinstance(listener, TcpPortal):
            listener.hand_to(self._connections(address, admission))
        elif listener is not None:
            listener.hand_to(_sort(address, admission), self._listeners_of(admission))

    def _connections(self, address: PortalAddress, admission: Admission) -> Connections:
        connections = {name: self._tcp_listeners[name].connections for name in admission.listeners}
        if len(connections) == 1:
            return next(iter(connections.values()))
        return ConnectionsBySource(self._tcp, _sort(address, admission), connections)

    def _listeners_of(self, admission: Admission) -> dict[ListenerName, PortlessUdpListener]:
        return {name: self._udp_listeners[name] for name in admission.listeners}


class SharedPortalListeners(PortalListeners):
    """Those of a process that gets the sockets from another one, which restricts and closes them.

    `turns` is taken with the other processes that have copies of them.
    """

    def __init__(
        self, tcp: TcpPlane, udp: UdpPlane, take: Callable[[], None], give: Callable[[], None], turns: AcceptTurns
    ) -> None:
        super().__init__(tcp, udp, take, give)
        self._turns = turns
        self._members: dict[PortalAddress, Mapping[int, tuple[int, int]]] = {}
        """The numbers of the sockets of UDP portals, of how many, by those of their inodes."""

    def shared(self) -> Iterator[tuple[ListenerName, PortalAddress, tuple[int, int], int]]:
        """The sockets of UDP portals: one whose clients come there, the member of how many, and the descriptor."""
        for address, portal in self._portals.items():
            if address.protocol is Protocol.UDP and portal.admission.listeners:
                for each in portal.sockets:
                    member = self._members[address][inode_of(each.fileno())]
                    yield portal.admission.listeners[0], address, member, each.fileno()

    def share(
        self,
        address: PortalAddress,
        admission: Admission,
        descriptors: Sequence[int],
        members: Sequence[int] = (0,),
        size: int = 1,
    ) -> None:
        """Serve clients at a portal from sockets there, in place of those from which they were served so far.

        They are those `members` of a group of `size`. Takes over descriptors. UDP flows of the same service port go
        on. Raises PortUnavailableError.
        """
        inodes = {inode_of(each): (member, size) for each, member in zip(descriptors, members, strict=True)}
        portal = self._portals.get(address)
        try:
            if portal is not None and _goes_on(portal, admission, descriptors):
                self._go_on(portal, address, admission)
            else:
                self._begin(address, admission, descriptors)
        except OSError as error:
            self.leave(address)  # of some of its sockets nobody would be told
            raise PortUnavailableError(f"the sockets of {address} cannot be watched: {error.strerror}") from error
        if address.protocol is Protocol.UDP:
            self._members[address] = inodes

    def _begin(self, address: PortalAddress, admission: Admission, descriptors: Sequence[int]) -> None:
        self.leave(address)
        self._take()
        try:
            self._adopt(address, admission, descriptors)
        except BaseException:
            if address not in self._portals:  # else its listener gives it back
                self._give()
            raise

    def leave(self, address: PortalAddress) -> None:
        """As :meth:`PortalListeners.leave`."""
        super().leave(address)
        self._members.pop(address, None)

    def follow(self, address: PortalAddress, admission: Admission) -> None:
        """Treat new clients of a portal by another admission of the same service port, if we serve it."""
        portal = self._portals.get(address)
        if portal is not None:
            self._go_on(portal, address, admission)

    def tcp_portals(self) -> list[SharedTcpPortal]:
        """What accepts clients at portals."""
        listeners = (portal.listener for portal in self._portals.values())
        return [each for each in listeners if isinstance(each, SharedTcpPortal)]

    def _tcp_portal(self, sock: ListeningSocket, connections: Connections) -> TcpPortal:
        return SharedTcpPortal(self._tcp, sock, connections, self._turns)

    def _udp_portal(
        self, sock: DatagramSocket, sort: Sort, listeners: Mapping[ListenerName, PortlessUdpListener]
    ) -> UdpPortal:
        return SharedUdpPortal(self._udp, sock, sort, listeners)


def _goes_on(portal: _Portal, admission: Admission, descriptors: Sequence[int]) -> bool:
    """Whether a portal is served already, and from these sockets from now on. Raises OSError."""
    listener = portal.listener
    if isinstance(listener, SharedUdpPortal) and is_same_service(portal.admission, admission):
        listener.read_from(descriptors)
        return True
    if not os.path.sameopenfile(portal.sock.fileno(), descriptors[0]):
        return False
    os.close(descriptors[0])
    return True


def open_portal(address: PortalAddress, instructions: bytes | None) -> PortalSocket:
    """A socket that listens at a portal and lets in whom the program lets in. Raises PortUnavailableError."""
    if address.protocol is Protocol.TCP:
        return ListeningSocket.open_shared(address.ip, address.port, instructions)
    return DatagramGroup.open_at_portal(address.ip, address.port, instructions).members[0]


def is_of(address: PortalAddress, family: IPFamily) -> bool:
    """Whether a portal is of this family."""
    return family_of(address.ip) is family


def is_same_service(old: Admission, new: Admission) -> bool:
    """Whether what is served, if anything, is of the same service port."""
    return {name.service_port for name in old.listeners} == {name.service_port for name in new.listeners}


def restrict(sockets: Iterable[PortalSocket], before: Admission, instructions: bytes | None) -> None:
    """Have the kernel let in whom the program lets in, everybody if there is none. Raises OSError."""
    for each in sockets:
        if instructions is not None:
            attach(each, instructions)
        elif not admits_everybody(before):
            detach(each)


def _sort(address: PortalAddress, admission: Admission) -> Callable[[str], ListenerName | None]:
    def is_host(client: str) -> bool:
        # What a process of the host sends to a portal comes from the portal's own address, unless it was bound.
        return client == address.ip or address_on_this_node(Endpoint(client, address.port)) is not None

    return sorted_by(admission, is_host)
