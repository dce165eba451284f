"""What the proxier needs of the parts around it, as Protocols. Each proxier has those of one address family.

The portal driver has an interface of its own, `userproxy.portals.interface`.
"""

import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from socket import socket

from userproxy.model import (
    ListenerName,
    Protocol,
    ServiceName,
    ServiceState,
    Snapshot,
    Verdict,
)
from userproxy.proxier.conntrack.entries import FlowEntry
from userproxy.routing.services import NoLocalEndpoints


class Source(typing.Protocol):
    """Where Services come from: manifests or the Kubernetes API."""

    def take_changes(self) -> Mapping[ServiceName, ServiceState | None]:
        """The Services that changed since the last call, as they are now; None for those that are gone."""

    def everything(self) -> Mapping[ServiceName, ServiceState]:
        """All Services as they are now. This takes their changes, too."""

    @property
    def waiting(self) -> Collection[ServiceName]:
        """The Services whose changes have not been taken."""

    def state(self, name: ServiceName) -> ServiceState | None:
        """A Service as it is now, whether its changes are taken or not; None if it does not exist."""

    def take(self, name: ServiceName) -> None:
        """Take the change of one Service: its `state` is in force."""


class PendingChanges(Source, typing.Protocol):
    """A source that also says how much waits to be taken."""

    @property
    def pending(self) -> tuple[int, int]:
        """How many Services have changes that are not taken, and how many changes of EndpointSlices there were."""

    def take_triggers(self) -> Sequence[float]:
        """The Unix times of the events that led to new versions of EndpointSlices, those since the last call."""


class SyncObserver(typing.Protocol):
    """Is told of each sync: what metrics and health need to know."""

    def queued(self) -> None:
        """A change requests a sync."""

    def sync_began(self) -> None:
        """A sync is about to take all changes queued so far."""

    def synced(
        self, triggers: Iterable[float], rule_counts: Mapping[str, int], no_local: NoLocalEndpoints, *, ok: bool
    ) -> None:
        """The sync that began last has ended; `ok` if everything stands as it should.

        `triggers` are the Unix times of what led to the changes of EndpointSlices that it took. `rule_counts` and
        `no_local` are how many rules each table has now, and how many service ports have no local endpoint.
        """

    def follow_began(self) -> None:
        """Changes that need no other rules are about to be taken over."""

    def followed(self, triggers: Iterable[float], rule_counts: Mapping[str, int], no_local: NoLocalEndpoints) -> None:
        """What began with `follow_began` has taken over all changes, which counts as a successful sync."""

    def followed_at_once(self, triggers: Iterable[float]) -> None:
        """Likewise, where nothing was queued, and neither rules nor what has local endpoints have changed."""


class Nodes(typing.Protocol):
    """The addresses of all Nodes, as far as they are known; those of this node's interfaces need not be among them.

    An address that is not known is looked up after the first question for it.
    """

    @property
    def version(self) -> int:
        """Changes whenever an answer may have changed."""

    @property
    def presuming(self) -> bool:
        """Whether an unknown address counts as a Node's for now."""

    def __contains__(self, address: object) -> bool:
        """Whether `address` counts as a Node's."""


class Forwarding(typing.Protocol):
    """The data plane."""

    def open(self, listener: ListenerName, preferred_port: int | None = None, verdict: Verdict = Verdict.REJECT) -> int:
        """Open a listener and return its local port. Raises PortUnavailableError.

        `verdict` is that of its first snapshot, which must follow in the same turn of the loop.
        """

    @property
    def room_for_ports(self) -> int:
        """How many more listeners and claims the limit of open files allows."""

    def keep_off(self, port: int) -> None:
        """Open no listener on this port from now on: a Service needs it as a node port."""

    def update(self, snapshot: Snapshot) -> None:
        """Route new connections of a listener by `snapshot`, as long as a drain has not closed it."""

    def close(self, listener: ListenerName) -> None:
        """Close a listener; its connections go on."""

    def recount_descriptors(self) -> None:
        """Count the process's open files again: other parts have opened or closed some."""


class Claims(typing.Protocol):
    """Local ports held so that no other program takes them. An empty `ip` is every address of the family."""

    def claim(self, ip: str, protocol: Protocol, port: int) -> None:
        """Hold a port. Raises PortUnavailableError."""

    def release(self, ip: str, protocol: Protocol, port: int) -> None:
        """Release a held port."""

    async def taken(self, ports: Collection[tuple[str, Protocol, int]]) -> Collection[tuple[str, Protocol, int]]:
        """Those of `ports`, as address, protocol and number, on which a program listens now. Holds none of them."""


class ClosableClaims(Claims, typing.Protocol):
    """Claims that can be released all at once, and handed over."""

    def sockets(self) -> Iterator[tuple[tuple[str, Protocol, int], socket]]:
        """What is held, by address, protocol and port, and the sockets that hold it."""

    def adopt(self, ip: str, protocol: Protocol, port: int, descriptor: int) -> None:
        """Go on with what another process has held."""

    def release_unasked(self) -> None:
        """Release what was adopted and nobody has claimed since."""

    def close(self) -> None:
        """Release every held port."""


class Conntrack(typing.Protocol):
    """The kernel's connection tracking."""

    async def delete(self, protocols: Collection[Protocol], is_stale: Callable[[FlowEntry], bool]) -> int:
        """Delete the entries for which `is_stale` is true, as far as the kernel allows it; returns how many.

        `is_stale` is called with all UDP entries, and with the TCP entries whose SYN has not been answered.
        """


class NoNodes(frozenset[str]):
    """The Nodes of a cluster of which only this node is known."""

    version = 0
    presuming = False
