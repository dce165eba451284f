"""The connections of one TCP listener: each is first a dial to an endpoint, then a relay."""

from functools import partial
from socket import SocketType

import structlog

from userproxy.forwarding.descriptors import PER_CONNECTION
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.plane import TcpPlane
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.sockets import reset_on_close
from userproxy.model import Endpoint, ListenerName
from userproxy.routing.balancer import Balancer

log = structlog.get_logger()


class TcpStatistics:
    """What one TCP listener has done so far; `active` is what it is doing."""

    __slots__ = ("accepted", "active", "bytes_down", "bytes_up", "dial_failures", "unserved")

    def __init__(self) -> None:
        self.accepted = 0
        self.active = 0
        self.unserved = 0
        self.dial_failures = 0
        self.bytes_up = 0
        self.bytes_down = 0


class Connections:
    """The connections of the clients that a listener has accepted. They go on when the listener is closed."""

    __slots__ = ("_members", "_plane", "_share", "balancer", "name", "statistics")

    def __init__(self, plane: TcpPlane, name: ListenerName, balancer: Balancer) -> None:
        self._plane = plane
        self._share = plane.shares.of(name.service_port)
        self._members: set[Dial | Relay] = set()
        self.name = name
        self.balancer = balancer
        self.statistics = TcpStatistics()

    def __len__(self) -> int:
        return len(self._members)

    def serve(self, client: SocketType, address: str) -> None:
        """Find an endpoint for a client who has been accepted, and relay. Two descriptors are taken for it already."""
        plane = self._plane
        dial = Dial(plane.dialer, self.name, self.balancer, client, address, self._connected, self._unserved)
        self.statistics.accepted += 1
        self.statistics.active += 1
        self._members.add(dial)
        self._share.add(address, dial)
        plane.active += 1
        plane.idle.clear()
        dial.start()

    def end_unknown(self, known: frozenset[Endpoint]) -> None:
        """Reset the connections to endpoints that are not known; dials to them go on to another one."""
        for connection in [each for each in self._members if each.endpoint not in known]:
            try:
                if isinstance(connection, Relay):
                    connection.abort()
                else:
                    connection.turn_away("the endpoint is gone")
            except Exception as error:  # noqa: BLE001 -- the snapshot counts for the others, too
                self._plane.poller.failed(connection, error)

    def reset(self) -> int:
        """End all connections with a RST; returns how many they were."""
        connections = list(self._members)
        for connection in connections:
            connection.abort()
        return len(connections)

    def _connected(self, dial: Dial, backend: SocketType, events: int) -> None:
        plane = self._plane
        relay = Relay(plane.relays, dial.client, backend, dial.endpoint, partial(self._relayed, dial.address))
        self.statistics.dial_failures += dial.failures
        self._members.add(relay)
        self._members.discard(dial)
        self._share.replace(dial.address, dial, relay)
        try:
            relay.start(events)
        except Exception as error:  # noqa: BLE001 -- the dial has ended well, so this is not for whoever called it
            plane.poller.failed(relay, error)

    def _unserved(self, dial: Dial) -> None:
        self.statistics.dial_failures += dial.failures
        self.statistics.unserved += 1
        log.debug("Client not served: no backend answered", v=1, service_port=str(dial.name), tried=dial.failures)
        reset_on_close(dial.client)
        self._plane.poller.close(dial.client)
        self._ended(dial.address, dial)

    def _relayed(self, address: str, relay: Relay) -> None:
        self.statistics.bytes_up += relay.bytes_up
        self.statistics.bytes_down += relay.bytes_down
        self._ended(address, relay)

    def _ended(self, address: str, connection: Dial | Relay) -> None:
        plane = self._plane
        self.statistics.active -= 1
        self._members.discard(connection)
        self._share.remove(address, connection)
        plane.budget.give(PER_CONNECTION)
        plane.active -= 1
        if not self._members:
            plane.without_listener.discard(self)
            if not plane.active:
                plane.idle.set()
