"""Tells of endpoints that are ejected: as problems of their Services, for commands and Events, and in the log."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias

import structlog

from userproxy.model import Endpoint, Problem, ProblemKind, ServicePortName
from userproxy.model.balancer_reports import EjectedEndpoint
from userproxy.model.data_plane import DataPlane

log = structlog.get_logger()

_LOOK_SECONDS: Final = 2.0
"""Less than the shortest time of an ejection, so that none is missed."""

_MOST: Final = 10
"""Problems of one Service: its other endpoints are not named."""

_Episodes: TypeAlias = Mapping[tuple[ServicePortName, Endpoint], EjectedEndpoint]


class EjectedEndpointsWatch:
    """Asks the data plane from time to time. `problems` are those of now; `changed` is called when they are others."""

    def __init__(self, data_plane: DataPlane, changed: Callable[[], None]) -> None:
        self._data_plane = data_plane
        self._changed = changed
        self._episodes: _Episodes = {}
        self.problems: frozenset[Problem] = frozenset()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Ask once."""
        episodes = _episodes(await self._data_plane.ejected_endpoints(), self._episodes)
        if episodes == self._episodes:
            return
        for key in sorted(episodes.keys() - self._episodes.keys()):
            log.warning("Endpoint ejected", service_port=str(key[0]), endpoint=str(key[1]), reason=episodes[key].reason)
        for name, endpoint in sorted(self._episodes.keys() - episodes.keys()):
            log.info("Endpoint not ejected any more", service_port=str(name), endpoint=str(endpoint))
        self._episodes = episodes
        problems = problems_of(episodes.values())
        if problems != self.problems:
            self.problems = problems
            self._changed()


def _episodes(ejected: Iterable[EjectedEndpoint], before: _Episodes) -> _Episodes:
    """One for each endpoint of a service port, whichever listeners and processes have ejected it.

    It lasts as long as one of them has, and is what was told of it first.
    """
    found: dict[tuple[ServicePortName, Endpoint], EjectedEndpoint] = {}
    for each in sorted(ejected, key=lambda each: each.since):
        key = each.listener.service_port, each.endpoint
        found.setdefault(key, before.get(key, each))
    return found


def problems_of(episodes: Iterable[EjectedEndpoint]) -> frozenset[Problem]:
    """A problem of its Service for each endpoint, a few at most for each Service."""
    by_service: dict[object, list[Problem]] = {}
    for each in sorted(episodes):
        name = each.listener.service_port
        when = datetime.fromtimestamp(each.since, UTC).strftime("%H:%M:%S")
        text = f"{name}: endpoint {each.endpoint} gets no new connections since {when} UTC: {each.reason}"
        by_service.setdefault(name.service, []).append(
            Problem(name.service, ProblemKind.ENDPOINT_EJECTED, text, here=True)
        )
    return frozenset(problem for problems in by_service.values() for problem in problems[:_MOST])
