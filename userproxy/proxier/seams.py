"""What the proxier needs of the adapters around it."""

import typing
from collections.abc import Mapping, Sequence

from userproxy.model import PortalBinding, Protocol, ServiceName, ServicePortName, ServiceState, Snapshot


class Source(typing.Protocol):
    """Where the truth comes from."""

    def take_changes(self) -> Mapping[ServiceName, ServiceState | None]:
        """The Services that changed since the last call, as they are now; None for those that are gone."""


class Forwarding(typing.Protocol):
    """The data plane."""

    def open(self, name: ServicePortName, preferred_port: int | None = None) -> int:
        """Listen for a service port and return its local port. Raises PortUnavailableError."""

    def update(self, snapshot: Snapshot) -> None:
        """Route new connections of an open service port by `snapshot`."""

    def close(self, name: ServicePortName) -> None:
        """Stop listening for a service port; its connections go on."""

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

    async def sync(self, bindings: Sequence[PortalBinding]) -> None:
        """Make these bindings, and no others of ours, stand. Raises KernelToolError and ObjectError."""

    async def local_ports(self) -> Mapping[ServicePortName, int]:
        """The local ports that an earlier process's rules lead to. Raises KernelToolError."""

    async def remove(self) -> Sequence[str]:
        """Remove everything of ours; returns what it was. Raises KernelToolError."""

    async def close(self) -> None:
        """Let go of whatever the driver holds; the portals stay as they are."""


class Claims(typing.Protocol):
    """Node ports held so that no other program takes them."""

    def claim(self, protocol: Protocol, port: int) -> None:
        """Hold a port. Raises PortUnavailableError."""

    def release(self, protocol: Protocol, port: int) -> None:
        """Let go of a held port."""
