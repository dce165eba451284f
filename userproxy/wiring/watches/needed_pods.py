"""Tells of Services without endpoints whose clients are held, so that a controller may start Pods for them."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from userproxy.model import ServicePortName
from userproxy.model.data_plane import DataPlane

log = structlog.get_logger()

_LOOK_SECONDS: Final = 0.5

_REMEMBERED: Final = 8192
"""Service ports of which it is known how many clients were held; one that holds none may be asked about again."""

AGAIN_SECONDS: Final = 5.0
"""As often as OpenShift's proxy tells while clients wait."""


class NeededPodsWatch:
    """Asks the data plane from time to time, and tells of a service port at its first held client.

    While clients are held it tells again, at most every five seconds.
    """

    def __init__(
        self,
        data_plane: DataPlane,
        tell: Callable[[ServicePortName], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_plane = data_plane
        self._tell = tell
        self._clock = clock
        self._ever: dict[ServicePortName, int] = {}
        self._told: dict[ServicePortName, float] = {}
        self._waits: set[ServicePortName] = set()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Ask once. A client who came and left since the last time counts, too."""
        held = sorted(await self._data_plane.held_clients())
        now = self._clock()
        waits = {each.service_port for each in held if each.now}
        for each in held:
            if each.now or each.ever > self._ever.get(each.service_port, 0):
                self._needs(each.service_port, now)
        for name in sorted(self._waits - waits):
            log.info("Nobody waits for Pods any more", service_port=str(name))
        self._waits = waits
        for each in held:
            self._ever.pop(each.service_port, None)
            self._ever[each.service_port] = each.ever
        while len(self._ever) > _REMEMBERED:
            del self._ever[next(iter(self._ever))]
        self._told = {name: when for name, when in self._told.items() if now - when < AGAIN_SECONDS}

    def _needs(self, name: ServicePortName, now: float) -> None:
        if now - self._told.get(name, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        self._told[name] = now
        if name not in self._waits:
            log.info("Pods are needed: a client waits, and there is no endpoint", service_port=str(name))
        self._tell(name)
