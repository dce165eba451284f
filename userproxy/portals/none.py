"""The driver that programs nothing: every listener is dialled by its local port, which is printed and remembered."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

import structlog

from userproxy.addresses import IPFamily, host_and_port
from userproxy.model import LocalTraffic, PortalBinding, PortalKind, PortalSync, ServicePortName, Verdict
from userproxy.pace import Pace
from userproxy.portals.interface import Cleaned, DriverOptions, PortalDriver, Traits
from userproxy.portals.remembered_ports import RememberedPorts

log = structlog.get_logger()

_MOST_LINES: Final = 100
"""Of so many there is a line of the log for each: at a start with thousands that took a twentieth of its CPU."""

_print = partial(print, flush=True)


class NoPortals(PortalDriver):
    """For a laptop without privileges, and for measuring the data plane alone.

    `show` is given the table of all that can be reached, once, after the first sync that brings any.
    """

    name = "none"
    traits = Traits()

    def __init__(self, options: DriverOptions, show: Callable[[str], object] = _print) -> None:
        self._host = options.bind_address
        file = options.ports_file
        self._remembered = None if file is None else RememberedPorts(file, options.source, options.family)
        self._show: Callable[[str], object] | None = show
        self._known: dict[ServicePortName, PortalBinding] = {}

    @staticmethod
    def unusable(family: IPFamily) -> None:
        """It works everywhere."""

    @staticmethod
    def clean_up(family: IPFamily, *, sparing: bool = False) -> Cleaned:  # noqa: ARG004 - a driver's signature
        """Nothing is ever left."""
        return Cleaned()

    @property
    def rule_counts(self) -> dict[str, int]:
        """There are no rules."""
        return {}

    def set_local_traffic(self, local_traffic: LocalTraffic) -> None:
        """Has no effect: a client chooses the traffic class by the local port that it dials."""

    async def sync(
        self,
        bindings: Sequence[PortalBinding],
        gone: Collection[ServicePortName] = (),
        *,
        verify: bool = True,  # noqa: ARG002 - a driver's signature
    ) -> PortalSync:
        """Log the address of each service port that is new or has moved, and the portals that it stands for."""
        pace = Pace()
        for old in gone:
            self._known.pop(old, None)
        moved: dict[ServicePortName, tuple[int, ...]] = {}
        rows: list[tuple[str, str, str]] = []
        for binding in bindings:
            before = self._known.get(binding.name)
            self._known[binding.name] = binding
            ports = _reachable(binding)
            if before is None or _reachable(before) != ports:
                local_ports = _local_ports(binding)
                if 0 not in local_ports:
                    moved[binding.name] = local_ports
                for port, portals in ports.items():
                    address = host_and_port(self._host, port)
                    rows.append((str(binding.name), address, portals))
            await pace.keep()
        if len(rows) > _MOST_LINES and self._show is not None:
            log.info("Service ports reachable, as the table on standard output says", count=len(rows))
        else:
            for name, address, portals in rows:
                log.info("Service port reachable", service_port=name, address=address, instead_of=portals)
                await pace.keep()
        await asyncio.to_thread(self._keep, moved, rows)
        return PortalSync()

    def _keep(self, moved: Mapping[ServicePortName, tuple[int, ...]], rows: list[tuple[str, str, str]]) -> None:
        if self._remembered is not None:
            self._remembered.write(moved)
        if rows and self._show is not None:
            show, self._show = self._show, None
            show(_table(rows))

    async def local_ports(self) -> Mapping[ServicePortName, tuple[int, ...]]:
        """The local ports that an earlier process had, from the file that remembers them."""
        if self._remembered is None:
            return {}
        return await asyncio.to_thread(self._remembered.read)

    async def local_addresses(self) -> frozenset[str]:
        """No address is claimed."""
        return frozenset()

    async def remove(self) -> list[str]:
        """There is nothing to remove."""
        return []

    async def close(self) -> None:
        """Nothing is held."""


def _reachable(binding: PortalBinding) -> dict[int, str]:
    """The portals that each local port stands for; those of external traffic are also marked as this node's."""
    found: dict[int, list[str]] = {}
    for portal in binding.portals:
        if portal.kind is PortalKind.CLUSTER_IP:
            targets = {"": binding.internal}
        elif binding.external == binding.on_node:
            targets = {"": binding.external}
        else:
            targets = {" from other nodes": binding.external, " from this node": binding.on_node}
        for whence, target in targets.items():
            if target.verdict is Verdict.SERVE:
                found.setdefault(target.local_port, []).append(f"{portal}{whence}")
    return {port: ", ".join(portals) for port, portals in found.items()}


def _local_ports(binding: PortalBinding) -> tuple[int, ...]:
    """In the order in which listeners of a service port are opened; 0 is among them where one serves nobody now."""
    targets = (binding.internal, binding.external, binding.on_node)
    return tuple(dict.fromkeys(target.local_port for target in targets))


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    headed = [("SERVICE PORT", "ADDRESS", "INSTEAD OF"), *sorted(rows)]
    first, second = (max(len(row[column]) for row in headed) for column in (0, 1))
    return "\n".join(f"{name:<{first}}   {address:<{second}}   {portals}" for name, address, portals in headed)
