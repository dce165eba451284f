"""What the proxier needs of the adapters around it. Each proxier has those of one address family."""

import typing
from collections.abc import Callable, Collection, Mapping, Sequence

from userproxy.model import (
    ListenerName,
    LocalTraffic,
    PortalBinding,
    PortalSync,
    Protocol,
    ServiceName,
    ServicePortName,
    ServiceState,
    Snapshot,
    Verdict,
)
from userproxy.proxier.conntrack_entries import FlowEntry


class Source(typing.Protocol):
    """Where the truth comes from."""

    def take_changes(self) -> Mapping[ServiceName, ServiceState | None]:
        """The Services that changed since the last call, as they are now; None for those that are gone."""

    def everything(self) -> Mapping[ServiceName, ServiceState]:
        """All Services as they are now, which counts as taking their changes."""


class Nodes(typing.Protocol):
    """The addresses of all Nodes, as far as they are known: those of this one's interfaces need not be among them.

    What is not known is looked up once it is asked for.
    """

    @property
    def version(self) -> int:
        """Another number once an answer may be another one."""

    @property
    def presuming(self) -> bool:
        """Whether an address that is not known counts as a Node's for now."""

    def __contains__(self, address: object) -> bool:
        """Whether `address` counts as a Node's."""


class Forwarding(typing.Protocol):
    """The data plane."""

    def open(self, listener: ListenerName, preferred_port: int | None = None, verdict: Verdict = Verdict.REJECT) -> int:
        """Open a listener and return its local port. Raises PortUnavailableError.

        `verdict` is that of its first snapshot, which is to follow in the same turn of the loop.
        """

    @property
    def room_for_ports(self) -> int:
        """How many more listeners and claims the limit of open files allows."""

    def keep_off(self, port: int) -> None:
        """Open no listener on a port that a Service needs as a node port, from now on."""

    def update(self, snapshot: Snapshot) -> None:
        """Route new connections of a listener by `snapshot`, as long as a drain has not closed it."""

    def close(self, listener: ListenerName) -> None:
        """Close a listener; its connections go on."""

    def recount_descriptors(self) -> None:
        """Take notice that other parts of the process have opened or closed files."""


class PortalDriver(typing.Protocol):
    """What makes packets for portals reach our listeners."""

    @property
    def name(self) -> str:
        """As ``--portals`` calls it."""

    @property
    def rule_counts(self) -> Mapping[str, int]:
        """How many rules of ours each table has, as of the last sync."""

    async def sync(
        self, bindings: Sequence[PortalBinding], gone: Collection[ServicePortName] = (), *, verify: bool = True
    ) -> PortalSync:
        """Make these bindings stand in place of those of the same names, and those that are `gone` no more.

        What is not named is wanted as before, whether or not the last sync was able to make it stand.
        Raises KernelToolError where nothing can be made to.

        If what stood differed, packets may have gone elsewhere until now, even if no binding is new. Without `verify`
        what is believed to stand need not be looked at. Those that are refused are tried again by later syncs, when
        the driver sees fit.
        """

    async def local_ports(self) -> Mapping[ServicePortName, Sequence[int]]:
        """The local ports that an earlier process's rules lead to. Raises KernelToolError."""

    async def local_addresses(self) -> frozenset[str]:
        """The addresses of this host's interfaces now. Raises KernelToolError."""

    def set_local_traffic(self, local_traffic: LocalTraffic) -> None:
        """Recognise this node's Pods so, from the next sync on."""

    async def remove(self) -> Sequence[str]:
        """Remove everything of ours; returns what it was. Raises KernelToolError."""

    async def close(self) -> None:
        """Let go of whatever the driver holds; the portals stay as they are."""


class Claims(typing.Protocol):
    """Local ports held so that no other program takes them. An empty `ip` is every address of the family."""

    def claim(self, ip: str, protocol: Protocol, port: int) -> None:
        """Hold a port. Raises PortUnavailableError."""

    def release(self, ip: str, protocol: Protocol, port: int) -> None:
        """Let go of a held port."""

    async def taken(self, ports: Collection[tuple[str, Protocol, int]]) -> Collection[tuple[str, Protocol, int]]:
        """Those of `ports`, by address, protocol and number, on which a program listens now. Holds nothing."""


class Conntrack(typing.Protocol):
    """The kernel's connection tracking."""

    async def delete(self, protocols: Collection[Protocol], is_stale: Callable[[FlowEntry], bool]) -> int:
        """Delete the entries for which `is_stale` is true, as far as the kernel lets us; how many that were.

        Asked about are all entries of UDP, and of TCP those whose SYN nobody has answered.
        """
