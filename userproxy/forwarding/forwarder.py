"""The data plane as the proxier sees it: open, update and close listeners; drain."""

import asyncio
import typing
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from random import Random
from socket import SocketType
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import structlog
from msgspec import Struct

from userproxy.errors import OutOfDescriptorsError, PortUnavailableError
from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import PER_CONNECTION, DescriptorBudget
from userproxy.forwarding.listener_ports import ListenerPorts
from userproxy.forwarding.own_addresses import OwnAddresses
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.ports import PortRange
from userproxy.forwarding.shares import Share, Shares
from userproxy.forwarding.tcp.dialer import Dial, Dialer
from userproxy.forwarding.tcp.listener import Listener
from userproxy.forwarding.tcp.pipes import PipePool
from userproxy.forwarding.tcp.relay import Relay, RelayContext
from userproxy.forwarding.tcp.sockets import ListeningSocket, is_taken, reset_on_close
from userproxy.forwarding.tcp.source_ports import SourcePorts
from userproxy.forwarding.udp.listener import PENDING_SECONDS, UdpListener
from userproxy.forwarding.udp.plane import UdpOptions, UdpPlane, flow_limits
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.routing.affinity import AffinityTable, Leftovers
from userproxy.routing.balancer import Balancer

log = structlog.get_logger()

Bound = TypeVar("Bound")

_EXPIRY_SECONDS: Final = 60.0
"""How often affinity tables that nobody uses let go of what has expired."""

_LOOK_AT_FLOWS_EVERY: Final = 0.05
"""Seconds; flows end without telling anybody, since they may go on at any time."""

_MOST_TRIES: Final = 1000
"""Ports tried for one listener: where nearly all are taken a try costs 12 us, and the loop waits."""

_RELEASED_PER_TURN: Final = 2000
"""Affinity entries let go of in one turn of the loop: a fifth of a millisecond."""


class ForwardingOptions(Struct, frozen=True):
    """How to forward. Times are seconds.

    `bind_addresses` is where listeners of each family bind; a family that is not there cannot be opened. Their ports
    are of `port_range`, or if that is empty of the kernel's, and keep off those of `kept_ports`.
    `portals_only` refuses clients that dial a listener's port itself; a connection half-open for
    `half_open_timeout` without moving a byte is reset; `descriptor_limit` is the process's limit of open files, of
    which `kept_descriptors` are for others in the process;
    `udp_timeout` is for flows, None for userproxy's own choice.
    """

    bind_addresses: Mapping[IPFamily, str]
    port_range: PortRange
    portals_only: bool
    half_open_timeout: float
    descriptor_limit: int
    udp_timeout: float | None = None
    kept_ports: tuple[PortRange, ...] = ()
    kept_descriptors: int = 0


class ListenerStatistics:
    """What one listener has done so far; `active` is what it is doing."""

    __slots__ = ("accepted", "active", "bytes_down", "bytes_up", "dial_failures", "unserved")

    def __init__(self) -> None:
        self.accepted = 0
        self.active = 0
        self.unserved = 0
        self.dial_failures = 0
        self.bytes_up = 0
        self.bytes_down = 0


class ProtocolListener(typing.Protocol):
    """What the forwarder needs of a listener, whatever its transport protocol."""

    @property
    def port(self) -> int:
        """The local port; the same for all of its life."""

    def follow(self, snapshot: Snapshot) -> None:
        """Treat new clients as the snapshot says; its balancer knows the endpoints already."""

    def close(self) -> None:
        """Take no more clients, and give the descriptor back to the budget."""


class _Service:
    """One listener with what belongs to it. It lasts until its last connection has ended."""

    __slots__ = ("balancer", "connections", "listener", "name", "share", "statistics")

    def __init__(self, name: ListenerName, balancer: Balancer, share: Share) -> None:
        self.name = name
        self.share = share
        self.balancer = balancer
        self.statistics: ListenerStatistics | UdpStatistics = ListenerStatistics()
        self.connections: set[Dial | Relay] = set()
        self.listener: ProtocolListener | None = None

    def end_unknown(self, known: frozenset[Endpoint], failed: Callable[[Dial | Relay, Exception], None]) -> None:
        """Reset the connections to endpoints that are not known; who is still being dialled for gets another one."""
        for connection in [each for each in self.connections if each.endpoint not in known]:
            try:
                if isinstance(connection, Relay):
                    connection.abort()
                else:
                    connection.turn_away("the endpoint is gone")
            except Exception as error:  # noqa: BLE001 -- the snapshot counts for the others, too
                failed(connection, error)


class Forwarder:
    """All listeners and connections of this process. Made and used on the loop's own thread."""

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
        self._pipes = PipePool(self._budget, loop.time)
        self._half_open = DeadlineQueue[Relay](loop, options.half_open_timeout, Relay.expire, self._poller.failed)
        source_ports = SourcePorts(loop.time)
        self._relays = RelayContext(self._poller, self._pipes, self._half_open, source_ports)
        self._own = OwnAddresses()
        self._dialer = Dialer(loop, self._poller, self._budget, self._own, source_ports)
        flow_limit, flow_limit_per_listener = flow_limits(options.descriptor_limit)
        self._udp = UdpPlane(loop, self._budget, UdpOptions(flow_limit, flow_limit_per_listener, options.udp_timeout))
        self._shares.flows = self._udp
        self._udp.make_room_elsewhere = self._shares.make_room_for_flow
        self._listen: Mapping[Protocol, Callable[[_Service, int | None, Verdict], ProtocolListener]] = {
            Protocol.TCP: self._listen_tcp,
            Protocol.UDP: self._listen_udp,
        }
        self._services: dict[ListenerName, _Service] = {}
        self._closed: set[_Service] = set()
        """Those whose listener is closed, and whose connections go on."""
        self._affinity: WeakValueDictionary[tuple[ServicePortName, IPFamily], AffinityTable] = WeakValueDictionary()
        self._leftovers = Leftovers(partial(loop.call_soon, self._release))
        self._expiry: asyncio.TimerHandle | None = None
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        """Connections now, those still being dialled included."""
        return self._active

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

    def statistics(self, listener: ListenerName) -> ListenerStatistics | UdpStatistics:
        """The figures of an open listener. Raises KeyError if it is not open."""
        return self._services[listener].statistics

    def open(self, listener: ListenerName, preferred_port: int | None = None, verdict: Verdict = Verdict.REJECT) -> int:
        """Hold a port for a listener and return its number: `preferred_port` if it is free.

        `verdict` is that of its first snapshot, which is to follow in the same turn of the loop. Until then a UDP
        listener refuses its clients. Raises PortUnavailableError.
        """
        listen = self._listen.get(listener.service_port.protocol)
        if listen is None:
            raise PortUnavailableError(f"{listener.service_port.protocol} is not forwarded")
        self.take_for_port()
        service = _Service(
            listener, Balancer(self._random, self._affinity_table), self._shares.of(listener.service_port)
        )
        try:
            service.listener = listen(service, preferred_port, verdict)
        except PortUnavailableError:
            self.give_port()
            raise
        self._services[listener] = service
        return service.listener.port

    @property
    def room_for_ports(self) -> int:
        """How many more listeners and claims there may be, which have two thirds of all descriptors."""
        return self._budget.room_for_ports

    def take_for_port(self) -> None:
        """Count a descriptor that a port is held with. Raises OutOfDescriptorsError where there is none for it."""
        if not self._budget.take_for_port():
            limit, most = self._options.descriptor_limit, self._budget.most_ports
            raise OutOfDescriptorsError(f"the limit of open files, {limit}, leaves {most} to listeners and node ports")

    def give_port(self) -> None:
        """A port is no longer held."""
        self._budget.give_port()

    def keep_off(self, port: int) -> None:
        """Have no listener on a port that a Service needs as a node port, from now on."""
        self._ports.keep_off(port)

    def update(self, snapshot: Snapshot) -> None:
        """Treat new connections of a listener by `snapshot`; one that a drain has closed gets none.

        Established ones stay, unless the snapshot says which endpoints are known: those to others are reset,
        also where this service port had a listener that is closed by now.
        """
        service = self._services.get(snapshot.listener)
        if service is not None:
            service.balancer.update(snapshot)
            if service.listener is not None:
                service.listener.follow(snapshot)
        if snapshot.known is not None:
            known = frozenset(snapshot.known)
            key = (snapshot.listener.service_port, snapshot.listener.family)
            if service is not None:
                service.end_unknown(known, self._poller.failed)
            for closed in [each for each in self._closed if (each.name.service_port, each.name.family) == key]:
                closed.end_unknown(known, self._poller.failed)

    def close(self, listener: ListenerName) -> None:
        """Stop listening; established connections go on."""
        service = self._services.pop(listener)
        if service.listener is not None:
            service.listener.close()
            if isinstance(service.listener, Listener):
                self._own.discard(listener.family, service.listener.port)
        service.balancer.leave_affinity()
        if service.connections:
            self._closed.add(service)

    def recount_descriptors(self) -> None:
        """Take notice that the rest of the process has opened or closed files."""
        self._budget.recount()

    async def drain(self, seconds: float) -> int:
        """Stop accepting, wait until all connections have ended, at most `seconds`; then reset the rest.

        Returns how many were reset. UDP clients are served until then, and at the end those that have just asked are
        waited for: their flows have no other socket for an answer.
        """
        for name in [name for name in self._services if name.service_port.protocol is not Protocol.UDP]:
            self.close(name)
        end = self._loop.time() + seconds
        try:
            async with asyncio.timeout_at(end):
                await self._idle.wait()
        except TimeoutError:
            pass
        reset = self.reset_connections()
        end = min(end, self._loop.time() + PENDING_SECONDS)
        while self._udp.pending and self._loop.time() < end:  # noqa: ASYNC110 -- flows end without a word
            await asyncio.sleep(_LOOK_AT_FLOWS_EVERY)
        for name in list(self._services):
            self.close(name)
        return reset

    def reset_connections(self) -> int:
        """End all connections with a RST; returns how many they were."""
        connections = [
            connection for service in (*self._services.values(), *self._closed) for connection in service.connections
        ]
        for connection in connections:
            connection.abort()
        return len(connections)

    def shut_down(self) -> None:
        """Let go of everything. The forwarder is of no use afterwards."""
        for listener in list(self._services):
            self.close(listener)
        self.reset_connections()
        self._half_open.cancel()
        self._budget.shut_down()
        self._dialer.shut_down()
        self._pipes.close()
        self._udp.shut_down()
        self._poller.shut_down()
        if self._expiry is not None:
            self._expiry.cancel()

    def _listen_tcp(self, service: _Service, preferred_port: int | None, verdict: Verdict) -> ProtocolListener:
        sock = self._bind(partial(ListeningSocket, verdict=verdict), service.name.family, preferred_port)
        try:
            listener = Listener(
                self._loop,
                self._poller,
                self._budget,
                self._shares,
                service.name,
                sock,
                partial(self._accepted, service),
                portals_only=self._options.portals_only,
                verdict=verdict,
            )
        except OSError as error:
            sock.close()
            raise PortUnavailableError(f"its listener cannot be watched: {error.strerror}") from error
        self._own.add(service.name.family, sock.getsockname()[0], sock.port)
        return listener

    def _listen_udp(self, service: _Service, preferred_port: int | None, _verdict: Verdict) -> ProtocolListener:
        service.statistics = statistics = UdpStatistics()
        sock = self._bind(DatagramSocket.open, service.name.family, preferred_port)
        return UdpListener(self._udp, service.name, sock, service.balancer, statistics)

    def _bind(self, bind: Callable[[str, int], Bound], family: IPFamily, preferred_port: int | None) -> Bound:
        """What `bind(host, port)` returns for a port that is free. Raises PortUnavailableError."""
        host = self._options.bind_addresses.get(family)
        if host is None:
            raise PortUnavailableError(f"there is no address to bind {family} listeners to")
        if preferred_port is not None and self._ports.allows(preferred_port):
            try:
                return bind(host, preferred_port)
            except PortUnavailableError as error:
                log.debug("Preferred port not available", v=2, reason=str(error))
        for port in islice(self._ports.candidates(self._random), _MOST_TRIES):
            try:
                return bind(host, port)
            except PortUnavailableError as error:
                if not is_taken(error):
                    raise
        raise PortUnavailableError(f"no free port was found on {host} among {self._ports.source}")

    def _accepted(self, service: _Service, client: SocketType, address: str) -> None:
        dial = Dial(
            self._dialer,
            service.name,
            service.balancer,
            client,
            address,
            partial(self._connected, service),
            partial(self._unserved, service),
        )
        service.statistics.accepted += 1
        service.statistics.active += 1
        service.connections.add(dial)
        service.share.add(address, dial)
        self._active += 1
        self._idle.clear()
        dial.start()

    def _connected(self, service: _Service, dial: Dial, backend: SocketType, events: int) -> None:
        relay = Relay(self._relays, dial.client, backend, dial.endpoint, partial(self._relayed, service, dial.address))
        service.statistics.dial_failures += dial.failures
        service.connections.add(relay)
        service.connections.discard(dial)
        service.share.replace(dial.address, dial, relay)
        try:
            relay.start(events)
        except Exception as error:  # noqa: BLE001 -- the dial has ended well, so this is not for whoever called it
            self._poller.failed(relay, error)

    def _unserved(self, service: _Service, dial: Dial) -> None:
        service.statistics.dial_failures += dial.failures
        service.statistics.unserved += 1
        log.debug("Client not served: no backend answered", v=1, service_port=str(dial.name), tried=dial.failures)
        reset_on_close(dial.client)
        self._poller.close(dial.client)
        self._ended(service, dial.address, dial)

    def _relayed(self, service: _Service, address: str, relay: Relay) -> None:
        service.statistics.bytes_up += relay.bytes_up
        service.statistics.bytes_down += relay.bytes_down
        self._ended(service, address, relay)

    def _ended(self, service: _Service, address: str, connection: Dial | Relay) -> None:
        service.statistics.active -= 1
        service.connections.discard(connection)
        service.share.remove(address, connection)
        self._budget.give(PER_CONNECTION)
        self._active -= 1
        if not service.connections:
            self._closed.discard(service)
            if not self._active:
                self._idle.set()

    def _affinity_table(self, listener: ListenerName) -> AffinityTable:
        key = (listener.service_port, listener.family)
        table = self._affinity.get(key)
        if table is None:
            table = self._affinity[key] = AffinityTable(self._leftovers)
            if self._expiry is None:
                self._expiry = self._loop.call_later(_EXPIRY_SECONDS, self._expire)
        return table

    def _expire(self) -> None:
        now = self._loop.time()
        for table in list(self._affinity.values()):
            table.expire(now)
        self._expiry = self._loop.call_later(_EXPIRY_SECONDS, self._expire) if self._affinity else None

    def _release(self) -> None:
        if self._leftovers.release(_RELEASED_PER_TURN):
            self._loop.call_soon(self._release)
