"""The faults in force in a process, and the connections that suffer them."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from random import Random
from typing import Final

from userproxy.forwarding.faults.choice import faults_of, suffered
from userproxy.forwarding.faults.datagrams import FaultedFlow
from userproxy.forwarding.faults.lane import Quota
from userproxy.forwarding.faults.shape import Shape, shape_of
from userproxy.forwarding.faults.stream import FaultedRelay
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.tcp.plane import Connections, TcpPlane
from userproxy.forwarding.tcp.portal import connections_of
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.relays.context import RelayContext
from userproxy.forwarding.tcp.tap import NoPipes
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.forwarding.udp.plane import UdpPlane
from userproxy.model.cluster import ServicePortName
from userproxy.model.faults import Fault
from userproxy.model.snapshots import ListenerName

_SLICE_SECONDS: Final = 0.002


class Faults:
    """Has connections suffer the faults that it is told of, each until it is over.

    `listeners` are those that are open. To be used on the loop's thread only.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: Poller,
        plane: TcpPlane,
        udp: UdpPlane,
        listeners: Mapping[ListenerName, object],
        random: Random,
    ) -> None:
        self._loop = loop
        self._poller = poller
        self._plane = plane
        self._udp = udp
        self._listeners = listeners
        self._chance = random.random
        self._texts = plane.recorder.faults
        self._quota = Quota()
        self._contexts: tuple[RelayContext, RelayContext] | None = None
        self.current: tuple[Fault, ...] = ()
        """Those in force."""
        self._suspended: tuple[Fault, ...] = ()
        self._by_port: dict[ServicePortName, PortFaults | None] = {}
        self._suffering: dict[int, FaultedRelay | FaultedFlow] = {}
        self._walk: Iterator[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.made = 0
        """Connections that have suffered any so far, and flows."""

    def of(self, service_port: ServicePortName) -> "PortFaults | None":
        """Those that connections of a service port may suffer; None for none."""
        if not self.current:
            return None
        if service_port not in self._by_port:
            found = faults_of(self.current, service_port)
            self._by_port[service_port] = PortFaults(self, found) if found else None
        return self._by_port[service_port]

    def of_flows(self, service_port: ServicePortName) -> "PortFaults | None":
        """As :meth:`of`, for UDP."""
        return self.of(service_port)

    def put(self, faults: tuple[Fault, ...]) -> None:
        """Have these in force and no others, for connections that there are, and for new ones.

        Those that there are follow in slices, between which traffic is served. What is suspended stays so.
        """
        now = time.monotonic()
        self._suspended = tuple(fault for fault in self._suspended if fault in faults)
        self.current = tuple(fault for fault in faults if fault.until > now and fault not in self._suspended)
        self._by_port.clear()
        self._walk = self._review_all()
        self._set_timer()
        self._go_on(self._walk)

    @property
    def wanted(self) -> tuple[Fault, ...]:
        """Those in force, and those that are suspended."""
        return (*self._suspended, *self.current)

    def suspend(self) -> None:
        """Have none in force when this returns, until :meth:`resume`: bytes wait in them. Costs nothing without any."""
        suspended = self.wanted
        self._end_now()
        self._suspended = suspended

    def resume(self) -> None:
        """Have those in force again that were suspended and are not over."""
        if self._suspended:
            suspended, self._suspended = self.wanted, ()
            self.put(suspended)

    def _end_now(self) -> None:
        if not (self.current or self._suffering or self._walk):
            return
        self.put(())
        self._walk = None
        for connections in self._connections():
            connections.faults = None
        for listener in self._udp.listeners:
            listener.faults = None
        for suffering in list(self._suffering.values()):
            try:
                suffering.lift()
            except Exception as error:  # noqa: BLE001 -- as in _look_at
                self._poller.failed(suffering.member, error)
        self._suffering.clear()
        self._texts.clear()

    def shut_down(self) -> None:
        """Cancel timers."""
        self._walk = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def is_settled(self) -> bool:
        """Whether all connections have taken notice of the faults that there are."""
        return self._walk is None

    @property
    def count(self) -> int:
        """How many are in force."""
        return len(self.current)

    @property
    def waiting(self) -> int:
        """Bytes that wait in connections that suffer."""
        return self._quota.used

    @property
    def suffering(self) -> Mapping[int, FaultedRelay | FaultedFlow]:
        """The connections and flows that suffer any, by id."""
        return self._suffering

    def start(self, relay: Relay, shape: Shape, events: int, header: bytes) -> None:
        """Begin a relay that is to suffer this."""
        if shape.refused:
            self.made += 1
            relay.start(0, b"")
            relay.abort(shape.text)
            return
        self._begin(relay, shape).start(events, header)

    def begin_flow(self, flow: UdpFlow, shape: Shape) -> None:
        """Have a flow suffer this that has got another socket."""
        before = self._suffering.pop(flow.id, None)
        self._texts.pop(flow.id, None)
        if isinstance(before, FaultedFlow):
            before.close()
        if shape.is_lasting:
            self.made += before is None
            failures = self._udp.poller.failures
            self._suffering[flow.id] = FaultedFlow(self._loop, flow, shape, self._quota, self._chance, failures)
            self._texts[flow.id] = shape.text

    def review_flow(self, flow: UdpFlow, shape: Shape) -> None:
        """Have a flow suffer this from now on, and nothing else."""
        before = self._suffering.get(flow.id)
        if before is not None and before.shape == shape:
            return
        if before is not None:
            before.lift()
        self.begin_flow(flow, shape)

    def reason(self, number: int, reason: str) -> str:
        """Why a connection or flow has ended, with what it has suffered."""
        text = self._texts.get(number, "")
        return reason if text in reason else f"{reason}; {text}" if reason else text

    def end_flow(self, flow: UdpFlow) -> None:
        """A flow is over."""
        before = self._suffering.pop(flow.id, None)
        self._texts.pop(flow.id, None)
        if isinstance(before, FaultedFlow):
            before.close()

    def review(self, relay: Relay, shape: Shape) -> None:
        """Have a connection suffer this from now on, and nothing else."""
        before = self._suffering.get(relay.id)
        if before is not None and before.shape == shape:
            return
        if before is not None:
            before.lift()
        if shape.is_lasting and not relay.closed:
            self._begin(relay, shape).watch()

    def _begin(self, relay: Relay, shape: Shape) -> FaultedRelay:
        self.made += 1
        if self._contexts is None:
            whole = self._plane.relays
            without = RelayContext(
                self._poller,
                NoPipes(whole.pipes),
                whole.closing,
                whole.half_open,
                whole.source_ports,
                whole.recorder,
            )
            self._contexts = whole, without
        self._contexts[1].shared = self._contexts[0].shared
        found = FaultedRelay(
            self._loop, relay, shape, self._poller, self._contexts, self._quota, self._chance, self._over
        )
        self._suffering[relay.id] = found
        self._texts[relay.id] = shape.text
        return found

    def _connections(self) -> list[Connections]:
        return connections_of(self._listeners.values(), self._plane)

    def _over(self, number: int) -> None:
        self._suffering.pop(number, None)
        self._texts.pop(number, None)

    def _review_all(self) -> Iterator[None]:
        """Has each connection suffer what it is to suffer now, one after the other: new ones first."""
        every = self._connections()
        listeners = list(self._udp.listeners)
        for each in listeners:
            each.faults = self.of(each.name.service_port)
            yield
        for connections in every:
            connections.faults = self.of(connections.name.service_port)
            yield
        for listener in listeners:
            faults = self.of(listener.name.service_port)
            if faults is not None or self._suffering:
                for flow in list(listener.flows):
                    if flow.counters is not None:
                        self._look_at(flow, faults)
                    yield
        for connections in every:
            faults = self.of(connections.name.service_port)
            if faults is not None or self._suffering:
                for member in list(connections.members.values()):
                    if isinstance(member, Relay) and not member.closed:
                        self._look_at(member, faults)
                    yield
        self._forget_ended()

    def _look_at(self, member: Relay | UdpFlow, faults: "PortFaults | None") -> None:
        """Have one suffer what it is to suffer now. A bug costs that one alone."""
        try:
            if isinstance(member, Relay):
                self.review(member, Shape() if faults is None else faults.shape_of(member))
            else:
                self.review_flow(member, Shape() if faults is None else faults.shape_of_flow(member))
        except Exception as error:  # noqa: BLE001 -- the others are to be looked at, too
            self._poller.failed(member, error)

    def _forget_ended(self) -> None:
        """Forget flows that have ended after their listeners had been told that there is no fault any more."""
        for suffering in list(self._suffering.values()):
            if isinstance(suffering, FaultedFlow) and suffering.flow.socket is None:
                self.end_flow(suffering.flow)

    def _go_on(self, walk: Iterator[None]) -> None:
        if walk is not self._walk:
            return
        end = time.monotonic() + _SLICE_SECONDS
        for _ in walk:
            if time.monotonic() >= end:
                self._loop.call_soon(self._go_on, walk)
                return
        self._walk = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.current:
            self._timer = self._loop.call_at(min(fault.until for fault in self.current), self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.put(self.wanted)


class PortFaults:
    """The faults that connections of one service port may suffer."""

    __slots__ = ("_all", "_faults")

    def __init__(self, every: Faults, faults: tuple[Fault, ...]) -> None:
        self._all = every
        self._faults = faults

    def shape_of(self, relay: Relay) -> Shape:
        """What these come to for a connection; nothing for one that none concerns."""
        found = suffered(self._faults, relay.endpoint, relay.dial.address, relay.id)
        return shape_of(found) if found else Shape()

    def shape_of_flow(self, flow: UdpFlow) -> Shape:
        """What these come to for a flow."""
        found = suffered(self._faults, flow.endpoint, flow.address, flow.id)
        return shape_of(found) if found else Shape()

    def begin(self, flow: UdpFlow) -> None:
        """Have a flow suffer them that has just got a socket."""
        self._all.begin_flow(flow, self.shape_of_flow(flow))

    def reason(self, number: int, reason: str) -> str:
        """Why a connection or flow has ended, with what it has suffered."""
        return self._all.reason(number, reason)

    def ended(self, flow: UdpFlow) -> None:
        """A flow is over."""
        self._all.end_flow(flow)

    def start(self, relay: Relay, events: int, header: bytes) -> None:
        """Begin a relay as :meth:`Relay.start`, with what it suffers."""
        shape = self.shape_of(relay)
        if shape.refused or shape.is_lasting:
            self._all.start(relay, shape, events, header)
        else:
            relay.start(events, header)
