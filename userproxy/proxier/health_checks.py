"""HTTP servers on the ``healthCheckNodePort`` of Services: load balancers ask them whether to send to this node.

The answers are those of kube-proxy 1.36 (pkg/proxy/healthcheck/service_health.go).
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import structlog
from aiohttp import web

from userproxy.addresses import SocketAddress
from userproxy.errors import PortUnavailableError
from userproxy.model import HealthCheck, IPFamily, Problem, ProblemKind, ServiceName
from userproxy.sockets import NamedSockets
from userproxy.telemetry.http import JSON, listening_socket
from userproxy.telemetry.http_connections import ConnectionBudget, HttpPort

log = structlog.get_logger()

_MOST_OF_ONE: Final = 8
"""Connections of one Service's port. A load balancer has a few probers, and each asks every few seconds."""

_EVERYWHERE: Final = {IPFamily.IPV4: ("0.0.0.0",), IPFamily.IPV6: ("::",)}


class HealthCheckServers:
    """The health check servers of one IP family.

    `healthy` is asked at each request whether the proxy is healthy. `budget` limits the connections of all servers
    together, and of whoever else shares it. `sockets` may have sockets of another process for them.
    """

    def __init__(
        self,
        family: IPFamily,
        healthy: Callable[[], bool],
        budget: ConnectionBudget,
        sockets: NamedSockets | None = None,
    ) -> None:
        self._family = family
        self._sockets = sockets or NamedSockets()
        self._healthy = healthy
        self._budget = budget
        self._addresses: tuple[str, ...] = ()
        self._servers: dict[ServiceName, _Server] = {}
        self._logged: dict[ServiceName, str] = {}
        """The failure of each Service that the log has already."""

    @property
    def are_open(self) -> bool:
        """Whether there is a server."""
        return bool(self._servers)

    async def sync(
        self,
        checks: Collection[HealthCheck],
        addresses: Iterable[str] | None = None,
        *,
        has_predecessor: bool = False,
    ) -> tuple[Problem, ...]:
        """Serve `checks` and no others, on `addresses`; returns a problem for each that cannot be served.

        `addresses` None means all addresses of the family; without any address there is no server. Other addresses
        than before reopen every server. A check with port 0 has no server.

        A server that stays answers with its new count from now on. One that cannot be opened is tried again by each
        call, and logged once; not logged with `has_predecessor`, which may have the port still. If two Services have
        the same port, the one that is served already keeps it, else the first gets it.
        """
        wanted_addresses = _EVERYWHERE[self._family] if addresses is None else tuple(addresses)
        if wanted_addresses != self._addresses:
            await self.close()
            self._addresses = wanted_addresses
        if not checks and not self._servers and not self._logged:
            return ()  # of most clusters, and asked at each change
        wanted = {check.service: check for check in checks if check.port}
        await self._close_others(wanted)
        problems = []
        for service, check in wanted.items():
            if service in self._servers:
                self._servers[service].check = check
            elif problem := await self._open(check, has_predecessor=has_predecessor):
                problems.append(problem)
        return tuple(problems)

    async def _close_others(self, wanted: Mapping[ServiceName, HealthCheck]) -> None:
        for service, server in tuple(self._servers.items()):
            if service not in wanted or server.check.port != wanted[service].port:
                del self._servers[service]
                await server.close()
                self._log("Health check closed", server.check)
        self._logged = {service: text for service, text in self._logged.items() if service in wanted}

    async def _open(self, check: HealthCheck, *, has_predecessor: bool) -> Problem | None:
        server = _Server(check, self._healthy, self._budget)
        try:
            await server.open(self._addresses, self._sockets)
        except PortUnavailableError as error:
            return self._failed(check, str(error), has_predecessor=has_predecessor)
        self._servers[check.service] = server
        self._logged.pop(check.service, None)
        self._log("Health check opened", check)
        return None

    def _failed(self, check: HealthCheck, reason: str, *, has_predecessor: bool) -> Problem:
        text = f"{check.service}: health check node port {check.port} is not served: {reason}"
        if self._logged.get(check.service) != text and not has_predecessor:
            self._logged[check.service] = text
            log.warning(text)
        return Problem(check.service, ProblemKind.HEALTH_CHECK, text, here=True)

    def _log(self, text: str, check: HealthCheck) -> None:
        log.debug(text, v=2, service=str(check.service), port=check.port, ip_family=self._family.value)

    async def close(self) -> None:
        """Close all servers."""
        await self._close_others({})


class _Server:
    """Answers for one Service, on all addresses or on none."""

    def __init__(self, check: HealthCheck, healthy: Callable[[], bool], budget: ConnectionBudget) -> None:
        self.check = check
        self._healthy = healthy
        self._port = HttpPort(self._answer, budget, _MOST_OF_ONE)

    async def open(self, addresses: Iterable[str], sockets: NamedSockets) -> None:
        """Listen on each of `addresses`. Raises PortUnavailableError, and then listens nowhere."""
        try:
            for address in addresses:
                at = SocketAddress(address, self.check.port)
                name = f"health check {at}"
                listening = sockets.take(name) or listening_socket(at, both_families=False)
                sockets.use(name, listening)
                self._port.listen(listening)
        except PortUnavailableError:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the port at once; answers under way get half a second to finish."""
        await self._port.close()

    async def _answer(self, _request: web.BaseRequest) -> web.Response:
        """The same for every method and path, as in kube-proxy."""
        count, healthy = self.check.local_endpoints, self._healthy()
        body = {
            "service": {"namespace": self.check.service.namespace, "name": self.check.service.name},
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        }
        return web.Response(
            status=200 if count and healthy else 503,
            body=json.dumps(body, indent="\t").encode(),
            headers={**JSON, "X-Load-Balancing-Endpoint-Weight": str(count)},
        )
