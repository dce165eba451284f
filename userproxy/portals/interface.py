"""What a portal driver is: the interface that each of them implements, and what the rest of a proxy may know of one.

A driver is made for one address family, from :class:`DriverOptions`. It stands in the table of
:mod:`~userproxy.portals.drivers` under its name.
"""

import asyncio
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from userproxy.model import (
    Admission,
    Differences,
    IPFamily,
    LocalTraffic,
    PortalAddress,
    PortalBinding,
    PortalSync,
    ServicePortName,
)
from userproxy.portals.lease import Lease


class DriverOptions(Struct, frozen=True):
    """What a driver is made for.

    `bind_address` is where listeners of the family are bound; an unspecified one, or none at all, is every address.
    `shared` is whether another proxy serves other Services of this node, as with ``--service-proxy-name``.
    `guard` is whether connections that packets are translated for are to outlive a flush of all rules by others.
    A driver without rules, which tell the local ports of an earlier process, may keep them in `ports_file`, for the
    cluster or directory that `source` names.
    """

    family: IPFamily
    bind_address: str
    shared: bool = False
    guard: bool = True
    ports_file: Path | None = None
    source: str = ""


class Traits(Struct, frozen=True):
    """How a driver brings packets to listeners, as far as others depend on it.

    `translates`: packets are translated (NAT). So the kernel tracks each connection, entries made before the rules may
    lead past them, and a client who dials a listener's own port can be told from one who came through a portal.

    `binds_portals`: listeners are bound to the portals' addresses and ports themselves, and need no local ports.
    """

    translates: bool = False
    binds_portals: bool = False

    @property
    def serves_portals(self) -> bool:
        """Whether clients reach a Service at its portals; else they dial local ports, on loopback unless told."""
        return self.translates or self.binds_portals


class Cleaned(Struct, frozen=True):
    """What a cleanup has done: a sentence for each thing `said`, and for each thing that it had to leave (`failed`).

    `absent` names programs and parts of the kernel that are not here, so that there is nothing to remove. `in_use` is
    what connections go on by, and what another cleanup is to remove.
    """

    said: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    in_use: tuple[str, ...] = ()

    def __add__(self, other: "Cleaned") -> "Cleaned":
        return Cleaned(
            self.said + other.said,
            self.failed + other.failed,
            self.absent + other.absent,
            self.in_use + other.in_use,
        )


class PortalListeners(typing.Protocol):
    """Listens at portals themselves, for drivers that bind them. Called on the running loop."""

    def serve_portal(self, address: PortalAddress, admission: Admission) -> None:
        """Listen at `address` and treat new clients by `admission`; clients of what it replaces see no difference.

        Raises PortUnavailableError where the port is taken or there is no descriptor for it, and ObjectError where the
        admission cannot be had.
        """

    def leave_portal(self, address: PortalAddress) -> None:
        """Listen at `address` no longer, if that was so."""


class PortalDriver(typing.Protocol):
    """Brings packets for the portals of one address family to our listeners. Drivers derive from this class.

    All methods are called on the running loop. Whatever blocks, a driver does in a thread of its own; it finishes what
    it began in the order of the calls.
    """

    name: typing.ClassVar[str]
    """As ``--portals`` has it."""

    traits: typing.ClassVar[Traits]

    lease: Lease | None = None
    """The right to change the portals of this node, where only one process can have it; None where any number can.

    A driver takes it in :meth:`sync` and in :meth:`remove`, and changes nothing without it.
    """

    _listeners: PortalListeners | None = None

    def __init__(self, options: DriverOptions) -> None:
        """Make a driver. Nothing is looked at or changed yet."""

    @staticmethod
    def unusable(family: IPFamily) -> str | None:
        """Why the driver cannot work here, in one clause that names the package, module or capability; None if it can.

        Blocking. Leaves no trace.
        """

    @staticmethod
    def clean_up(family: IPFamily, *, sparing: bool = False) -> Cleaned:
        """Remove what any process has left by this driver. Blocking; the caller has the lease.

        With `sparing` established connections go on, whatever they need for that.
        """

    def clean_up_elsewhere(self) -> Cleaned:
        """Remove what earlier processes have left by this driver where it does not write. Blocking, after a sync."""
        return Cleaned()

    def listen_with(self, listeners: PortalListeners) -> None:
        """Be given what listens at portals, before the first sync. Only drivers that bind portals need it."""
        self._listeners = listeners

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

    async def watch(self, disturbed: Callable[[], None]) -> None:  # noqa: ARG002 - for those who override it
        """Call `disturbed` when others may have changed what stands, until cancelled: a sync with `verify` follows.

        It runs from before the first sync. Without it, such changes are found by the periodic sync.
        """
        await asyncio.Event().wait()

    async def differences(self) -> Differences:
        """How what stands differs from what the syncs so far were to make stand. Changes nothing.

        Raises KernelToolError where it cannot be looked at.
        """
        return Differences()

    async def local_ports(self) -> Mapping[ServicePortName, Sequence[int]]:
        """The local ports to which an earlier process's rules lead. Raises KernelToolError."""

    async def local_addresses(self) -> frozenset[str]:
        """The addresses of this host's interfaces now. Raises KernelToolError."""

    def set_local_traffic(self, local_traffic: LocalTraffic) -> None:
        """Recognise this node's Pods so, from the next sync on."""

    async def remove(self) -> Sequence[str]:
        """Remove everything of ours; returns what it was. Raises KernelToolError."""

    async def close(self) -> None:
        """Let go of whatever the driver holds; the portals stay as they are."""
