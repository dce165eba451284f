"""The driver that programs nothing: every listener is dialled by its local port, which is logged."""

from collections.abc import Sequence

import structlog

from userproxy.model import PortalBinding, ServicePortName

log = structlog.get_logger()


class NoPortals:
    """For a laptop without privileges, and for measuring the data plane alone."""

    name = "none"

    def __init__(self, bind_address: str) -> None:
        self._bind_address = bind_address
        self._known: dict[ServicePortName, int] = {}

    @property
    def rule_counts(self) -> dict[str, int]:
        """There are no rules."""
        return {}

    async def sync(self, bindings: Sequence[PortalBinding]) -> None:
        """Log where each service port that is new, or has moved, can be dialled."""
        current = {binding.name: binding.local_port for binding in bindings}
        for binding in bindings:
            if self._known.get(binding.name) != binding.local_port:
                log.info(
                    "Service port reachable",
                    service_port=str(binding.name),
                    address=f"{self._bind_address}:{binding.local_port}",
                    instead_of=", ".join(map(str, binding.portals)),
                )
        self._known = current

    async def local_ports(self) -> dict[ServicePortName, int]:
        """Nothing is left behind by an earlier process."""
        return {}

    async def remove(self) -> list[str]:
        """There is nothing to remove."""
        return []

    async def close(self) -> None:
        """There is nothing to let go of."""
