"""What a flow needs of those around it: the plane, the balancer, and the listener that its client writes to."""

from collections.abc import Collection
from socket import SocketType
from typing import TYPE_CHECKING, Protocol

from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.observation.recorder import DecisionRing, Portal, Recorder
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.return_pairs import ReturnPair
from userproxy.forwarding.udp.datagrams import Outbox, Sender
from userproxy.forwarding.udp.losses import Losses
from userproxy.forwarding.udp.sources.flow_sources import FlowSources
from userproxy.forwarding.udp.sources.source_trial import Pauses
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Endpoint, ListenerName

if TYPE_CHECKING:
    from userproxy.forwarding.udp.flow import UdpFlow


class Plane(Protocol):
    """What a flow needs of what all listeners share."""

    poller: Poller
    recorder: Recorder
    budget: DescriptorBudget

    def connect(
        self, client: str, endpoint: Endpoint, sources: FlowSources | None = None
    ) -> tuple[SocketType, ReturnPair | None]:
        """A socket for a flow, and what is known of its client's address, where it has that. Raises OSError."""


class Chooser(Protocol):
    """What a flow needs of a balancer."""

    def pick(self, client: str, now: float, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint for `client`, one that is not among `tried` if there is any; None if there is none at all."""

    def suspect(self, endpoint: Endpoint, now: float, reason: str) -> str:
        """Note that the endpoint could not be reached, and why. What follows is a clause, or nothing."""

    def forget(self, client: str) -> None:
        """Note that no endpoint could be reached for a client."""


class FlowFaults(Protocol):
    """The faults that flows of one service port may suffer."""

    def begin(self, flow: "UdpFlow") -> None:
        """Have a flow suffer them that has just got a socket."""

    def ended(self, flow: "UdpFlow") -> None:
        """A flow is over."""

    def reason(self, number: int, reason: str) -> str:
        """Why the flow with an id has ended, with what it has suffered."""


class Listener(Sender, Protocol):
    """What a flow needs of the listener that its client writes to."""

    name: ListenerName
    port: int
    portal: Portal
    decisions: DecisionRing
    losses: Losses
    chooser: Chooser
    outbox: Outbox
    statistics: UdpStatistics
    pauses: Pauses
    faults: "FlowFaults | None"
    """Those that its flows may suffer; None for none."""

    @property
    def plane(self) -> Plane:
        """What all listeners share."""

    @property
    def has_answered(self) -> bool:
        """Whether any of its endpoints ever has."""

    def now(self) -> float:
        """The loop's time."""

    def sources_of(self, client: str) -> FlowSources | None:
        """Whose address endpoints are to see of a client; None for the node's."""

    def note_reply(self, flow: "UdpFlow", now: float) -> None:
        """Note that an answer of the endpoint has come."""

    def note_shortage(self, reason: str) -> None:
        """Note that there is no socket for a flow; `reason` is a clause for the log."""

    def closed(self, flow: "UdpFlow") -> None:
        """Note that a flow has ended."""
