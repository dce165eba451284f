"""What is handed over, as values. Descriptors travel beside them, in the same order."""

import zlib
from functools import cache
from typing import Final, TypeAlias

import msgspec.inspect
from msgspec import Struct

from userproxy.addresses import IPFamily
from userproxy.forwarding.observation.counters import CountersState
from userproxy.forwarding.observation.recorder import Entry
from userproxy.forwarding.return_pairs import PairState
from userproxy.forwarding.tcp.source_ports import PortsState
from userproxy.forwarding.tcp.states import Address, DialState, RelayState
from userproxy.forwarding.udp.states import FlowState
from userproxy.model import (
    Admission,
    ListenerName,
    PortalAddress,
    Protocol,
    ReturnPath,
    ServicePortName,
    Snapshot,
    Verdict,
)
from userproxy.routing.affinity import AffinityState, PlainClient
from userproxy.routing.balancers.state import BalancerState

CLIENT_AND_BACKEND: Final = 2


class ListenerHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A listener by the number of its counters; or, if it is closed, what its connections still need of it.

    With a `port` its socket belongs to it, where `is_held` another one that holds the port, and `further` ones of a
    group. `host` is what a UDP one was opened at.
    """

    number: int
    name: ListenerName
    is_open: bool
    balancer: BalancerState
    counters: CountersState
    port: int = 0
    host: str = ""
    verdict: Verdict | None = None
    is_held: bool = False
    further: int = 0
    snapshot: Snapshot | None = None

    @property
    def descriptors(self) -> int:
        """How many belong to it."""
        return (1 if self.port else 0) + (1 if self.is_held else 0) + self.further


class ListenerChanged(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """What a listener has done since it was handed over; `is_open` is as it was then."""

    number: int
    balancer: BalancerState
    counters: CountersState
    is_open: bool = True

    descriptors = 0


class SnapshotChanged(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """What counts from now on for a listener that was handed over, by the number of its counters."""

    number: int
    snapshot: Snapshot

    descriptors = 0


class PortalHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A portal that is itself listened on. Its socket belongs to it, and `further` ones of its group."""

    address: PortalAddress
    admission: Admission
    further: int = 0

    @property
    def descriptors(self) -> int:
        """How many belong to it."""
        return 1 + self.further


class AffinityHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """An affinity table without its entries."""

    service_port: ServicePortName
    family: IPFamily
    state: AffinityState

    descriptors = 0


class AffinityEntries(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Some entries of an affinity table, of one generation. With `is_anew` those before count no more."""

    service_port: ServicePortName
    family: IPFamily
    is_young: bool
    entries: dict[PlainClient, int]
    is_anew: bool = False

    descriptors = 0


class RelayHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """An established connection of the listener with this number. With `is_new`, its sockets belong to it.

    So do the ends of the pipes in which bytes wait.
    """

    owner: int
    is_new: bool
    state: RelayState

    @property
    def descriptors(self) -> int:
        """How many belong to it."""
        return (CLIENT_AND_BACKEND if self.is_new else 0) + self.pipe_ends

    @property
    def pipe_ends(self) -> int:
        """How many of them are ends of pipes."""
        return 2 * ((self.state.up.fill > 0) + (self.state.down.fill > 0))


class DialHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A connection that has no endpoint yet. The client's socket belongs to it, and with `has_backend` another one."""

    owner: int
    has_backend: bool
    state: DialState

    @property
    def descriptors(self) -> int:
        """How many belong to it."""
        return CLIENT_AND_BACKEND if self.has_backend else 1


class ClientHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A client who is accepted and waits for descriptors; at a portal, or at the listener with this number."""

    owner: int
    portal: PortalAddress | None
    peer: Address

    descriptors = 1


class DatagramHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The last datagram of a client who is held, at a portal or at the listener with this number.

    It came at `since`, of CLOCK_MONOTONIC. `addresses` are what the kernel has said of it, `peer` is the client.
    """

    owner: int
    portal: PortalAddress | None
    peer: Address
    addresses: bytes
    payload: bytes
    since: float

    descriptors = 0


class FlowHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A UDP flow, at a portal or at the listener with this number. With `is_new`, its socket belongs to it."""

    owner: int
    portal: PortalAddress | None
    is_new: bool
    state: FlowState

    @property
    def descriptors(self) -> int:
        """How many belong to it."""
        return 1 if self.is_new else 0


class DecisionsHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Decisions about clients of a service port, the oldest first."""

    service_port: ServicePortName
    entries: tuple[Entry, ...]

    descriptors = 0


class PathHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Which clients' addresses this host can keep."""

    path: ReturnPath

    descriptors = 0


class PairsHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """What was learned of answers to clients' addresses."""

    protocol: Protocol
    family: IPFamily
    pairs: tuple[PairState, ...]

    descriptors = 0


class PortsHandedOver(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Local ports in TIME_WAIT, which may be used again."""

    state: PortsState

    descriptors = 0


class Ended(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Connections and flows that have ended since they were handed over, by their ids."""

    ids: tuple[int, ...]

    descriptors = 0


class Last(Struct, frozen=True, gc=False, array_like=True, tag=True):
    """That is all. `last_id` is that of the newest connection or flow."""

    last_id: int

    descriptors = 0


Item: TypeAlias = (
    ListenerHandedOver
    | ListenerChanged
    | SnapshotChanged
    | PortalHandedOver
    | AffinityHandedOver
    | AffinityEntries
    | RelayHandedOver
    | DialHandedOver
    | ClientHandedOver
    | DatagramHandedOver
    | FlowHandedOver
    | DecisionsHandedOver
    | PathHandedOver
    | PairsHandedOver
    | PortsHandedOver
    | Ended
    | Last
)


def release() -> int:
    """A number that changes with what these values look like: processes that have the same understand each other.

    It takes 20 ms the first time.
    """
    return _number()


@cache
def _number() -> int:
    return zlib.crc32(repr(msgspec.inspect.type_info(Item)).encode())
