"""Tells of balancers of other packages that are faulty: as problems of their Services, and in the log."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from userproxy.model import Problem, ProblemKind, ServicePortName
from userproxy.model.balancer_reports import BalancerFault
from userproxy.model.data_plane import DataPlane

log = structlog.get_logger()

_LOOK_SECONDS: Final = 2.0


class BalancerFaultsWatch:
    """Asks the data plane from time to time. `problems` are those of now; `changed` is called when they are others."""

    def __init__(self, data_plane: DataPlane, changed: Callable[[], None]) -> None:
        self._data_plane = data_plane
        self._changed = changed
        self._faults: Mapping[tuple[ServicePortName, str], BalancerFault] = {}
        self.problems: frozenset[Problem] = frozenset()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Ask once. Of several listeners and processes the first that was heard of counts, as long as any is left."""
        faults: dict[tuple[ServicePortName, str], BalancerFault] = {}
        for each in sorted(await self._data_plane.balancer_faults()):
            key = each.listener.service_port, each.balancer
            faults.setdefault(key, self._faults.get(key, each))
        new = sorted(faults.keys() - self._faults.keys())
        gone = self._faults.keys() - faults.keys()
        if not new and not gone:
            return
        self._faults = faults
        for key in new:
            log.warning(_text(faults[key]))
        self.problems = frozenset(
            Problem(name.service, ProblemKind.BALANCER_FAULTY, _text(fault), here=True)
            for (name, _), fault in faults.items()
        )
        self._changed()


def _text(fault: BalancerFault) -> str:
    name = fault.listener.service_port
    return f"{name}: balancer {fault.balancer} is not used any more, and round-robin in its place: {fault.reason}"
