"""TCP at the addresses of portals themselves, for a portal driver that binds them (``--portals local``)."""

import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from socket import SocketType
from typing import Final, TypeAlias

from userproxy.forwarding.descriptors import PER_CONNECTION
from userproxy.forwarding.observation.recorder import Peer, Portal
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.plane import Connections as AnyConnections
from userproxy.forwarding.tcp.plane import TcpPlane
from userproxy.forwarding.tcp.relays.accounts import TcpStatistics
from userproxy.forwarding.tcp.sockets import ListeningSocket, reset_on_close
from userproxy.model import ListenerName, Snapshot, Verdict
from userproxy.routing.balancer import Balancer

Sort: TypeAlias = Callable[[str], ListenerName | None]
"""Whose client an address is; None for nobody's."""


class PortlessTcpListener:
    """A service port's listener without a local port: clients come through its portals, which may be several."""

    port: Final = 0

    def __init__(self, plane: TcpPlane, name: ListenerName, balancer: Balancer) -> None:
        self.connections = Connections(plane, name, balancer)

    @property
    def balancer(self) -> Balancer:
        """Chooses endpoints for new clients."""
        return self.connections.balancer

    @property
    def statistics(self) -> TcpStatistics:
        """What it has done so far."""
        return self.connections.statistics

    def follow(self, snapshot: Snapshot) -> None:
        """End the connections to endpoints that the snapshot does not know; the balancer knows its endpoints already.

        Whether clients are let in at all is the portals' business.
        """
        self.connections.follow(snapshot)

    def close(self) -> None:
        """Its portals are closed by now. Established connections go on."""
        self.connections.left()


def connections_of(listeners: Iterable[object], plane: TcpPlane) -> list[AnyConnections]:
    """The connections of each of the listeners that is one of TCP, and of those that are closed."""
    of_tcp = (TcpListener, PortlessTcpListener)
    return [*(each.connections for each in listeners if isinstance(each, of_tcp)), *plane.without_listener]


class ConnectionsBySource(Connections):
    """Hands each client to the connections of the listener whose client it is, and has none itself."""

    __slots__ = ("_connections", "_sort")

    def __init__(self, plane: TcpPlane, sort: Sort, connections: Mapping[ListenerName, Connections]) -> None:
        first = next(iter(connections.values()))
        super().__init__(plane, first.name, first.balancer)
        self.statistics = first.statistics
        self._sort = sort
        self._connections = connections

    @property
    def holds(self) -> bool:
        """Whether clients of any of them are to be held."""
        return any(each.holds for each in self._connections.values())

    @holds.setter
    def holds(self, holds: bool) -> None:
        """It holds nobody itself."""

    def serve(self, client: SocketType, peer: Peer, portal: Portal = None) -> None:
        """As :meth:`Connections.serve`. Who is nobody's client, because its rule has just gone, is reset."""
        name = self._sort(peer[0])
        if name is None:
            self.refused(peer, portal, "its address is not let in")
            reset_on_close(client)
            client.close()
            self._plane.budget.give(PER_CONNECTION)
        else:
            self._connections[name].serve(client, peer, portal)


class TcpPortal(TcpListener):
    """The listening socket at a portal. What it accepts belongs to listeners that have no ports."""

    __slots__ = ()

    def __init__(self, plane: TcpPlane, sock: ListeningSocket, connections: Connections) -> None:
        """Take over a listening socket. Raises OSError where the kernel can watch no more; it is then left open."""
        super().__init__(plane, sock, connections, portals_only=False, verdict=Verdict.SERVE)

    def hand_to(self, connections: Connections) -> None:
        """Serve new clients so. They are of the same service port."""
        self.connections = connections

    def _opened(self) -> None:
        """It has no port of its own that an endpoint might name: portals as endpoints are the proxier's business."""

    def _let_go(self) -> None:
        with suppress(OSError):
            # The poller closes it at the end of its turn, and no client is to be accepted by it until then.
            self._socket.shutdown(socket.SHUT_RD)
