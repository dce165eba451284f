"""The driver that programs nothing: every listener is dialled by its local port, which is logged."""

from collections.abc import Collection, Mapping, Sequence

import structlog

from userproxy.addresses import IPFamily, bracketed
from userproxy.model import LocalTraffic, PortalBinding, PortalKind, PortalSync, ServicePortName, Verdict
from userproxy.pace import Pace
from userproxy.portals.interface import Cleaned, DriverOptions, PortalDriver, Traits

log = structlog.get_logger()


class NoPortals(PortalDriver):
    """For a laptop without privileges, and for measuring the data plane alone."""

    name = "none"
    traits = Traits()

    def __init__(self, options: DriverOptions) -> None:
        self._host = bracketed(options.bind_address)
        self._known: dict[ServicePortName, PortalBinding] = {}

    @staticmethod
    def unusable(family: IPFamily) -> None:
        """It works everywhere."""

    @staticmethod
    def clean_up(family: IPFamily) -> Cleaned:  # noqa: ARG004 - a driver's signature
        """Nothing is ever left."""
        return Cleaned()

    @property
    def rule_counts(self) -> dict[str, int]:
        """There are no rules."""
        return {}

    def set_local_traffic(self, local_traffic: LocalTraffic) -> None:
        """Nothing tells this node's Pods apart: whoever dials a local port has chosen the traffic's class."""

    async def sync(
        self,
        bindings: Sequence[PortalBinding],
        gone: Collection[ServicePortName] = (),
        *,
        verify: bool = True,  # noqa: ARG002 - a driver's signature
    ) -> PortalSync:
        """Log where each service port that is new, or has moved, can be dialled, and instead of what."""
        pace = Pace()
        for name in gone:
            self._known.pop(name, None)
        for binding in bindings:
            before = self._known.get(binding.name)
            self._known[binding.name] = binding
            ports = _reachable(binding)
            if before is None or _reachable(before) != ports:
                for port, portals in ports.items():
                    log.info(
                        "Service port reachable",
                        service_port=str(binding.name),
                        address=f"{self._host}:{port}",
                        instead_of=portals,
                    )
            await pace.keep()
        return PortalSync()

    async def local_ports(self) -> Mapping[ServicePortName, tuple[int, ...]]:
        """Nothing is left behind by an earlier process."""
        return {}

    async def local_addresses(self) -> frozenset[str]:
        """No address is claimed."""
        return frozenset()

    async def remove(self) -> list[str]:
        """There is nothing to remove."""
        return []

    async def close(self) -> None:
        """There is nothing to let go of."""


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
