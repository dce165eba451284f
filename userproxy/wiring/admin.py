"""Builds the admin API of a proxy: its socket, and what it is asked that only the whole proxy knows."""

import os
import platform
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog
from msgspec import structs

from userproxy import __version__
from userproxy.admin.items import (
    Configuration,
    Control,
    Differences,
    FamilyStatus,
    ProcessStatus,
    Status,
    Version,
    WatchStatus,
)
from userproxy.admin.paths import default_socket
from userproxy.admin.rows import Planes, time_text
from userproxy.admin.server import AdminServer, Objects
from userproxy.cluster.redaction import without_password
from userproxy.config import Settings, configz
from userproxy.config.settings import OwnSettings
from userproxy.model.reports import ProcessFigures
from userproxy.model.sources import WatchReport
from userproxy.proxier.inspect.reports import FamilyReport
from userproxy.sockets import NamedSockets
from userproxy.wiring.differences import compared

log = structlog.get_logger()


class Admin:
    """What a proxy says of itself. `healthy` is what its health checks say; `source` is what the log calls its source.

    `settings` are those in force, which may change. `most` is how many connections it may have.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        node_name: str,
        source: str,
        planes: Planes,
        healthy: Callable[[], bool],
        most: int,
        sockets: NamedSockets | None = None,
    ) -> None:
        self._settings = settings
        self._node_name = node_name
        self._source = source
        self._planes = planes
        self._healthy = healthy
        self._most = most
        self._sockets = sockets
        self._started = time.time()

    def tasks(self, may_have_predecessor: Callable[[], bool]) -> dict[str, Coroutine[Any, Any, None]]:
        """The server as a coroutine to run until the stop, by the name of its task.

        There is none where it is switched off, or has no place for its socket. `may_have_predecessor` says whether the
        process that this one replaces may still have the socket.
        """
        path = socket_path(self._settings())
        if path is None:
            return {}
        objects = Objects(
            configuration=self._configuration, version=self._version, status=self._status, differences=self._differences
        )
        server = AdminServer(
            path,
            self._planes,
            objects,
            may_have_predecessor,
            self._most,
            lambda: self._settings().allow_capture,
            self._sockets,
        )
        return {"admin": server.run()}

    def _configuration(self) -> Configuration:
        settings = self._settings()
        return Configuration(configz(settings), own_values(settings))

    def _version(self) -> Version:
        return Version(
            __version__, "v1", platform.python_version(), os.getpid(), self._node_name, time_text(self._started)
        )

    async def _differences(self) -> Differences:
        return await compared(self._planes)

    async def _status(self) -> Status:
        control = self._planes.control
        families = control.families()
        return Status(
            in_sync=all(family.in_sync for family in families if family.served),
            healthy=self._healthy(),
            version=__version__,
            node=self._node_name,
            source=self._source,
            families=tuple(map(_family, families)),
            watches=tuple(map(_watch, control.watches())),
            processes=tuple(map(_process, await self._planes.data.processes())),
            problems=len(control.problems()) + len(control.object_problems()),
            controls=_controls(self._settings()),
        )


def _controls(settings: Settings) -> tuple[Control, ...]:
    """What may be asked for here beside what is read."""
    given: tuple[tuple[Control, bool], ...] = (
        ("drains", True),
        ("close", True),
        ("faults", settings.allow_faults),
        ("capture", settings.allow_capture),
    )
    return tuple(name for name, allowed in given if allowed)


def most_admin_connections(descriptor_limit: int) -> int:
    """How many connections the admin API may have, by the limit of open files."""
    return max(4, 16 * min(descriptor_limit, 1024) // 1024)


def socket_path(settings: Settings) -> Path | None:
    """Where ``--admin-socket`` has it; None if it is switched off, or there is no usual place."""
    asked = settings.admin_socket
    if asked is None:
        return default_socket()
    return Path(asked) if asked else None


def own_values(settings: Settings) -> dict[str, Any]:
    """The values of the flags that are not kube-proxy's, by their names."""
    found = {field.name: getattr(settings, field.name) for field in structs.fields(OwnSettings)}
    return {name.replace("_", "-"): _plain(value) for name, value in found.items()}


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple):
        return [str(each) for each in value]
    return without_password(str(value)) if "://" in str(value) else str(value)


def _family(report: FamilyReport) -> FamilyStatus:
    return FamilyStatus(
        report.family,
        report.driver,
        report.served,
        report.in_sync,
        time_text(report.since),
        report.reason,
        report.pending_services,
        report.pending_slices,
    )


def _watch(report: WatchReport) -> WatchStatus:
    age = report.event_age_seconds
    return WatchStatus(report.resource, report.synced, None if age is None else round(age, 3), report.reason)


def _process(figures: ProcessFigures) -> ProcessStatus:
    return ProcessStatus(
        figures.pid,
        round(figures.loop_lag_seconds, 6),
        figures.descriptors,
        figures.descriptor_limit,
        figures.connections,
        figures.flows,
        figures.pipes,
        figures.role,
        figures.restarts,
    )
