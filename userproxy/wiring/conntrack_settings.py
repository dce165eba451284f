"""Applies the configuration's conntrack settings to the kernel, at the start and whenever they change."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from userproxy.config import PortalMode, Settings
from userproxy.config.kubeproxy import Conntrack
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.sysctls import set_conntrack


def set_up(settings: Settings) -> None:
    """Do what ``--init-only`` asks for: everything that needs more privileges than serving. Blocking."""
    if settings.portals is PortalMode.AUTO or DRIVERS[settings.portals].traits.translates:
        _set(settings)


class ConntrackTask:
    """Applies conntrack settings while a proxy runs. `translating` is whether any driver translates packets."""

    def __init__(self, settings: Settings, *, translating: bool) -> None:
        self._settings = settings
        self._translating = translating
        self._changed = asyncio.Event()

    def apply(self, settings: Settings) -> None:
        """Use these settings from now on."""
        if settings.conntrack != self._settings.conntrack:
            self._settings = settings
            self._changed.set()

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The coroutines to run until the stop, by the names of their tasks."""
        return {"set conntrack": self._run()} if self._translating else {}

    async def _run(self) -> None:
        while True:
            await asyncio.to_thread(_set, self._settings)
            await self._changed.wait()
            self._changed.clear()


def _set(settings: Settings) -> None:
    set_conntrack(settings.conntrack, asked=settings.configuration.conntrack != Conntrack())
