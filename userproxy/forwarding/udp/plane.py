"""What all UDP listeners of a process share: one poller, room for datagrams, the limits of flows."""

import asyncio
import errno
import os
from collections.abc import Callable
from socket import SocketType
from typing import Final, Protocol

import structlog
from msgspec import Struct

from userproxy.addresses import IPFamily
from userproxy.forwarding.client_addresses import ClientAddresses
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.holding.places import AllPlaces
from userproxy.forwarding.limits.flows import FlowLimits
from userproxy.forwarding.listener_addresses import ListenerAddresses
from userproxy.forwarding.log_limit import LogLimit
from userproxy.forwarding.observation.reasons import MADE_ROOM
from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.return_pairs import ReturnPair
from userproxy.forwarding.udp.datagrams import Inbox, Outbox
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.forwarding.udp.flows import FlowQuota, FlowTable
from userproxy.forwarding.udp.sockets import connect_to
from userproxy.forwarding.udp.sources.flow_sources import FlowSources
from userproxy.forwarding.udp.surroundings import FlowFaults
from userproxy.model import Endpoint, ListenerName, ServicePortName
from userproxy.model.reports import Outcome

log = structlog.get_logger()

FLOW_LIMIT: Final = 16_384
"""Each flow has a local port of its own, and net.ipv4.ip_local_port_range has 28,232: the node needs some, too."""


class UdpOptions(Struct, frozen=True):
    """Limits of the flows of a process and of one listener, and the configured ``--udp-timeout`` in seconds.

    ``udp_timeout`` is how long any flow may be quiet in both directions. If it is None, 30 s hold, and 120 s for a
    flow that went both ways and has lasted for 2 s.
    """

    flow_limit: int = FLOW_LIMIT
    flow_limit_per_listener: int = FLOW_LIMIT * 4 // 5
    udp_timeout: float | None = None


def flow_limits(descriptor_limit: int, processes: int = 1) -> tuple[int, int]:
    """Limits that suit a process's limit of open files: in all, and per listener. So many `processes` share the ports.

    A DNS client asks from a new port each time, so 300 queries a second are 10,000 flows; what is left of the files is
    for connections.
    """
    limit = max(1, min(FLOW_LIMIT // processes, descriptor_limit * 5 // 8))
    return limit, max(1, limit * 4 // 5)


class Listener(Protocol):
    """What the plane needs of its listeners."""

    name: ListenerName
    host: str
    port: int
    flows: FlowTable[UdpFlow]
    faults: FlowFaults | None

    @property
    def pending(self) -> int:
        """Flows whose client has just asked and waits for the answer."""

    def close(self) -> None:
        """Stop listening, and end all flows."""


class FaultsInForce(Protocol):
    """All faults of a process."""

    def of_flows(self, service_port: ServicePortName) -> FlowFaults | None:
        """Those of a service port, None where there is none."""


class NoFaults:
    """There are none."""

    def of_flows(self, _service_port: ServicePortName) -> None:
        """None."""


class UdpPlane:
    """What all UDP listeners of a process share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        budget: DescriptorBudget,
        options: UdpOptions,
        recorder: Recorder | None = None,
        client_addresses: ClientAddresses | None = None,
        places: AllPlaces | None = None,
        flow_limits: FlowLimits | None = None,
    ) -> None:
        self.loop = loop
        self.flow_limits = flow_limits or FlowLimits()
        self.faults: FaultsInForce = NoFaults()
        """Those of this process."""
        self.recorder = recorder or Recorder(loop.time)
        self.client_addresses = client_addresses or ClientAddresses()
        self.poller = Poller(loop, after_handlers=self.flush)
        self.budget = budget
        self.places = places or AllPlaces()
        self.options = options
        self.quota = FlowQuota[UdpFlow](options.flow_limit, options.flow_limit_per_listener)
        self.listeners: set[Listener] = set()
        self.listener_addresses = ListenerAddresses()
        self._boxes: dict[IPFamily, tuple[Inbox, Outbox]] = {}
        self._shortage = LogLimit()
        self.evicted = 0
        """Flows that have made room for others."""
        self.make_room_elsewhere: Callable[[], bool] = lambda: False
        """Called when flows have too few descriptors: ends a connection, and returns whether it did."""

    @property
    def active(self) -> int:
        """Flows now, of all listeners."""
        return self.quota.total

    @property
    def pending(self) -> int:
        """Flows whose client has asked within the last two seconds and waits: what a drain should wait for."""
        return sum(listener.pending for listener in self.listeners)

    def boxes(self, family: IPFamily) -> tuple[Inbox, Outbox]:
        """The room for datagrams that all listeners of a family share."""
        if family not in self._boxes:
            self._boxes[family] = Inbox(family), Outbox(family)
        return self._boxes[family]

    def add(self, listener: Listener) -> None:
        """Take in a listener that is new."""
        self.listeners.add(listener)

    def discard(self, listener: Listener) -> None:
        """Forget a listener that is closed."""
        self.listeners.discard(listener)

    def connect(
        self, client: str, endpoint: Endpoint, sources: FlowSources | None = None
    ) -> tuple[SocketType, ReturnPair | None]:
        """A socket for a flow of `client` to `endpoint`, and what is known of answers to the client's address.

        None is known where it has the node's, which it has without `sources`. Raises OSError; ELOOP where the endpoint
        is one of our own listeners, since datagrams would loop.
        """
        if endpoint in self.listener_addresses:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        kept = None if sources is None else sources.connect(client, endpoint, self.loop.time())
        return kept or (connect_to(endpoint), None)

    def shut_down(self) -> None:
        """Close all listeners and the poller."""
        for listener in list(self.listeners):
            listener.close()
        self.poller.shut_down()

    def flush(self) -> None:
        """Send the answers that have been collected and wait for others."""
        for _, outbox in self._boxes.values():
            outbox.flush()

    def make_room(self, listener: Listener) -> bool:
        """Take a descriptor for another flow of `listener`, if need be that of the flow that was quiet for longest."""
        giver, reason = self.quota.full(listener.flows), "a limit of flows"
        if giver is None:
            if self.budget.take(1) or (self.make_room_elsewhere() and self.budget.take(1)):
                return True
            giver, reason = self.quota.giver(listener.flows), "the limit of open files"
        self.note_shortage(listener, reason)
        return self._evict_from(giver) and self.budget.take(1)

    def evict(self) -> bool:
        """End the quietest flow of the listener that has most, for others' sake; False if there is no flow."""
        return self._evict_from(self.quota.largest)

    def _evict_from(self, table: FlowTable[UdpFlow] | None) -> bool:
        oldest = table.oldest if table is not None else None
        if oldest is None:
            return False
        oldest.listener.statistics.evicted += 1
        self.evicted += 1
        oldest.close(MADE_ROOM, Outcome.DROPPED)
        return True

    def note_shortage(self, listener: Listener, reason: str) -> None:
        """Log that `listener` has no room for another flow unless one of its own or another's ends; once a shortage."""
        if self._shortage.begins(self.loop.time()):
            log.warning(
                "Out of UDP flows: those that have been quiet for longest make room for new clients",
                reason=reason,
                service_port=str(listener.name),
                its_flows=len(listener.flows),
                all_flows=self.quota.total,
            )
