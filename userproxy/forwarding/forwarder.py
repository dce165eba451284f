"""The data plane as the proxier sees it: open, update and close service ports; drain."""

import asyncio
from functools import partial
from random import Random
from socket import SocketType

import structlog
from msgspec import Struct

from userproxy.errors import PortUnavailableError
from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import PER_CONNECTION, DescriptorBudget
from userproxy.forwarding.dialer import Dial, Dialer
from userproxy.forwarding.listener import Listener
from userproxy.forwarding.pipes import PipePool
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.ports import PortRange
from userproxy.forwarding.relay import Relay, RelayContext
from userproxy.forwarding.sockets import ListeningSocket, reset_on_close
from userproxy.model import ServicePortName, Snapshot
from userproxy.routing.balancer import Balancer

log = structlog.get_logger()


class ForwardingOptions(Struct, frozen=True):
    """How to forward. Times are seconds.

    `bind_address` is where listeners bind; `portals_only` refuses clients that dial a listener's port
    itself; a connection half-open for `half_open_timeout` without moving a byte is reset;
    `descriptor_limit` is the process's limit of open files.
    """

    bind_address: str
    port_range: PortRange
    portals_only: bool
    half_open_timeout: float
    descriptor_limit: int


class ServicePortStatistics:
    """What one service port has done so far; `active` is what it is doing."""

    __slots__ = ("accepted", "active", "bytes_down", "bytes_up", "dial_failures", "unserved")

    def __init__(self) -> None:
        self.accepted = 0
        self.active = 0
        self.unserved = 0
        self.dial_failures = 0
        self.bytes_up = 0
        self.bytes_down = 0


class _Service:
    """One open service port."""

    __slots__ = ("balancer", "listener", "statistics")

    def __init__(self, balancer: Balancer, statistics: ServicePortStatistics) -> None:
        self.balancer = balancer
        self.statistics = statistics
        self.listener: Listener | None = None


class Forwarder:
    """All listeners and connections of this process. Made and used on the loop's own thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ForwardingOptions, random: Random) -> None:
        self._loop = loop
        self._options = options
        self._random = random
        self._poller = Poller(loop)
        self._budget = DescriptorBudget(loop, options.descriptor_limit)
        self._pipes = PipePool(self._budget)
        self._half_open = DeadlineQueue[Relay](loop, options.half_open_timeout, Relay.expire)
        self._relays = RelayContext(self._poller, self._pipes, self._half_open)
        self._dialer = Dialer(loop, self._poller, self._budget)
        self._services: dict[ServicePortName, _Service] = {}
        self._connections: set[Dial | Relay] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        """Connections now, those still being dialled included."""
        return len(self._connections)

    def statistics(self, name: ServicePortName) -> ServicePortStatistics:
        """The figures of an open service port. Raises KeyError if it is not open."""
        return self._services[name].statistics

    def open(self, name: ServicePortName, preferred_port: int | None = None) -> int:
        """Listen for a service port and return the local port: `preferred_port` if it is free.

        Until a snapshot with endpoints arrives its clients are reset. Raises PortUnavailableError.
        """
        if not self._budget.take_for_listener():
            raise PortUnavailableError("no descriptor is left for its listener")
        try:
            sock = self._bind(preferred_port)
        except PortUnavailableError:
            self._budget.give(1)
            raise
        service = _Service(Balancer(self._random), ServicePortStatistics())
        service.listener = Listener(
            self._loop,
            self._poller,
            self._budget,
            name,
            sock,
            partial(self._accepted, name, service),
            portals_only=self._options.portals_only,
        )
        self._services[name] = service
        return service.listener.port

    def update(self, snapshot: Snapshot) -> None:
        """Route new connections of an open service port by `snapshot`; established ones stay."""
        self._services[snapshot.name].balancer.update(snapshot)

    def close(self, name: ServicePortName) -> None:
        """Stop listening for a service port; its established connections go on."""
        service = self._services.pop(name)
        if service.listener is not None:
            service.listener.close()

    def recount_descriptors(self) -> None:
        """Take notice that the rest of the process has opened or closed files."""
        self._poller.close_now()  # the budget counts these as closed already
        self._budget.recount()

    async def drain(self, seconds: float) -> int:
        """Stop accepting, wait until all connections have ended, at most `seconds`; then reset the rest.

        Returns how many were reset.
        """
        for name in list(self._services):
            self.close(name)
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self.reset_connections()

    def reset_connections(self) -> int:
        """End all connections with a RST; returns how many they were."""
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        return len(connections)

    def shut_down(self) -> None:
        """Let go of everything. The forwarder is of no use afterwards."""
        for name in list(self._services):
            self.close(name)
        self.reset_connections()
        self._half_open.cancel()
        self._dialer.shut_down()
        self._pipes.close()
        self._poller.shut_down()

    def _bind(self, preferred_port: int | None) -> ListeningSocket:
        host = self._options.bind_address
        if preferred_port is not None:
            try:
                return ListeningSocket(host, preferred_port)
            except PortUnavailableError as error:
                log.debug("Preferred port not available", v=2, reason=str(error))
        refusal: PortUnavailableError | None = None
        for port in self._options.port_range.candidates(self._random):
            try:
                return ListeningSocket(host, port)
            except PortUnavailableError as error:
                refusal = error
        port_range = self._options.port_range
        raise PortUnavailableError(
            f"no port of {port_range.first}-{port_range.last} is free on {host}" if port_range.last else str(refusal)
        ) from refusal

    def _accepted(self, name: ServicePortName, service: _Service, client: SocketType, address: str) -> None:
        service.statistics.accepted += 1
        service.statistics.active += 1
        dial = Dial(
            self._dialer,
            name,
            service.balancer,
            client,
            address,
            partial(self._connected, service),
            partial(self._unserved, service),
        )
        self._connections.add(dial)
        self._idle.clear()
        dial.start()

    def _connected(self, service: _Service, dial: Dial, backend: SocketType, events: int) -> None:
        service.statistics.dial_failures += dial.failures
        relay = Relay(self._relays, dial.client, backend, partial(self._relayed, service))
        self._connections.add(relay)
        self._connections.discard(dial)
        relay.start(events)

    def _unserved(self, service: _Service, dial: Dial) -> None:
        service.statistics.dial_failures += dial.failures
        service.statistics.unserved += 1
        log.debug("Client not served: no backend answered", v=1, service_port=str(dial.name), tried=dial.failures)
        reset_on_close(dial.client)
        self._poller.close(dial.client)
        self._ended(service, dial)

    def _relayed(self, service: _Service, relay: Relay) -> None:
        service.statistics.bytes_up += relay.bytes_up
        service.statistics.bytes_down += relay.bytes_down
        self._ended(service, relay)

    def _ended(self, service: _Service, connection: Dial | Relay) -> None:
        service.statistics.active -= 1
        self._connections.discard(connection)
        self._budget.give(PER_CONNECTION)
        if not self._connections:
            self._idle.set()
