"""The health check node ports of one family, from its first sync to its stop."""

import asyncio
from collections.abc import Collection, Iterable

from userproxy.model import HealthCheck, Problem
from userproxy.proxier.health_checks import HealthCheckServers


class HealthPorts:
    """Serves what a sync wants on `servers`, unless they have been closed for good meanwhile."""

    def __init__(self, servers: HealthCheckServers) -> None:
        self._servers = servers
        self._turn = asyncio.Lock()
        """Held while servers are opened or closed."""
        self._are_left = False
        self.problems: tuple[Problem, ...] = ()
        """Those of the last sync that has ended: while one is under way, the other family may report."""

    def concern(self, checks: Collection[HealthCheck]) -> bool:
        """Whether a sync with these checks has anything to do here: in most clusters none has."""
        return bool(checks) or self._servers.are_open or bool(self.problems)

    async def sync(
        self, checks: Collection[HealthCheck], addresses: Iterable[str] | None, *, has_predecessor: bool
    ) -> bool:
        """Serve these checks and no others, as :meth:`HealthCheckServers.sync`.

        Returns whether that is to be tried again soon: a predecessor may still have the ports, which is no problem.
        """
        async with self._turn:
            if self._are_left:
                return False
            failed = await self._servers.sync(checks, addresses, has_predecessor=has_predecessor)
        if has_predecessor and failed:
            return True
        self.problems = failed
        return False

    async def leave(self) -> None:
        """Close them for good: a successor needs the ports."""
        self._are_left = True
        async with self._turn:
            await self._servers.close()

    async def close(self) -> None:
        """Close them at once, whoever is opening one."""
        await self._servers.close()
