"""What all TCP listeners of a process share."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from userproxy.forwarding.client_addresses import ClientAddresses
from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.holding.places import AllPlaces
from userproxy.forwarding.limits.gates import DEFAULT_PATIENCE, Gates
from userproxy.forwarding.listener_addresses import ListenerAddresses
from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.shares import Shares
from userproxy.forwarding.tcp.dialer import Dial, Dialer
from userproxy.forwarding.tcp.introductions import Introductions
from userproxy.forwarding.tcp.keep_alive import KeepAlive
from userproxy.forwarding.tcp.pipes import PipePool
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.relays.context import CLOSING_SECONDS, RelayContext
from userproxy.forwarding.tcp.source_ports import SourcePorts
from userproxy.model import Endpoint, IPFamily, ListenerName, ServicePortName


class Connections(Protocol):
    """What the plane needs of the connections of a listener."""

    name: ListenerName
    faults: "PortFaults | None"
    """Those that its connections may suffer."""

    @property
    def members(self) -> Mapping[int, Dial | Relay]:
        """By their ids, which are in ascending order."""

    def settle(self, relay: Relay) -> None:
        """Count the bytes that a live one has moved since they were last counted."""

    def end_unknown(self, known: frozenset[Endpoint]) -> None:
        """End those to endpoints that are not known."""

    def reset(self) -> int:
        """End all; returns how many they were."""

    def in_order(self) -> None:
        """Bring members into the order of their ids, after some have been adopted."""


class PortFaults(Protocol):
    """The faults that connections of one service port may suffer."""

    def start(self, relay: Relay, events: int, header: bytes) -> None:
        """Begin a relay as :meth:`Relay.start`, with what it suffers."""

    def reason(self, number: int, reason: str) -> str:
        """Why the connection with an id has ended, with what it has suffered."""


class FaultsInForce(Protocol):
    """All faults of a process. `made` counts connections and flows that have suffered any."""

    made: int

    @property
    def count(self) -> int:
        """How many there are."""

    def of(self, service_port: ServicePortName) -> PortFaults | None:
        """Those of a service port, None where there is none."""


class NoFaults:
    """There are none."""

    made = 0
    count = 0

    def of(self, _service_port: ServicePortName) -> None:
        """None."""


class TcpPlane:
    """The parts that all connections use, and how many there are.

    A connection that stays half-open for `half_open_timeout` seconds without moving a byte is reset, at most
    CLOSING_SECONDS later. Clients in the networks of `trusted_proxies` are believed what their PROXY headers say, where
    a snapshot asks for headers. `gates` let clients of service ports with limits in, and `places` are for those of
    service ports without endpoints.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: Poller,
        budget: DescriptorBudget,
        shares: Shares,
        half_open_timeout: float,
        recorder: Recorder | None = None,
        client_addresses: ClientAddresses | None = None,
        trusted_proxies: Iterable[str] = (),
        gates: Gates | None = None,
        places: AllPlaces | None = None,
        processes: int = 1,
    ) -> None:
        self.loop = loop
        self.poller = poller
        self.budget = budget
        self.shares = shares
        self.gates = gates or Gates(loop, DEFAULT_PATIENCE)
        self.places = places or AllPlaces()
        self.recorder = recorder or Recorder(loop.time)
        self.client_addresses = client_addresses or ClientAddresses()
        self.pipes = PipePool(budget, loop.time)
        self.half_open = DeadlineQueue[Relay](loop, half_open_timeout, Relay.expire, poller.failed)
        closing = DeadlineQueue[Relay](
            loop, min(CLOSING_SECONDS, half_open_timeout), Relay.stay_half_open, poller.failed
        )
        source_ports = SourcePorts(loop.time, processes)
        self.relays = RelayContext(poller, self.pipes, closing, self.half_open, source_ports, self.recorder)
        self.listener_addresses = ListenerAddresses()
        self.dialer = Dialer(loop, poller, budget, self.listener_addresses, source_ports, self.recorder.clock)
        self.keep_alive = KeepAlive(loop, self.recorder)
        self.introductions = Introductions(loop, poller, trusted_proxies)
        self.faults: FaultsInForce = NoFaults()
        """Those of this process."""
        self.active = 0
        """Connections now, those still being dialled included."""
        self.idle = asyncio.Event()
        """Set while there is no connection."""
        self.idle.set()
        self.without_listener: set[Connections] = set()
        """Connections whose listener is closed."""

    def end_unknown(self, service_port: ServicePortName, family: IPFamily, known: frozenset[Endpoint]) -> None:
        """End the connections to unknown endpoints that closed listeners of a service port have left."""
        key = (service_port, family)
        for each in [each for each in self.without_listener if (each.name.service_port, each.name.family) == key]:
            each.end_unknown(known)

    def shut_down(self) -> None:
        """Cancel all timers and close idle pipes, after all listeners are closed and all connections have ended."""
        self.relays.closing.cancel()
        self.half_open.cancel()
        self.dialer.shut_down()
        self.introductions.shut_down()
        self.keep_alive.shut_down()
        self.pipes.close()
