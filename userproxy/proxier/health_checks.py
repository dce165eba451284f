"""HTTP servers on the ``healthCheckNodePort`` of Services: load balancers ask them whether to send to this node.

Their answers are kube-proxy 1.36's (pkg/proxy/healthcheck/service_health.go).
"""

import json
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from aiohttp import web

from userproxy.addresses import SocketAddress
from userproxy.errors import PortUnavailableError
from userproxy.model import HealthCheck, IPFamily, ServiceName
from userproxy.telemetry.http import JSON, listening_socket
from userproxy.telemetry.http_connections import ConnectionBudget, HttpPort

log = structlog.get_logger()

_MOST_OF_ONE: Final = 8
"""Connections of one Service's port. A load balancer has a few probers, and each asks every few seconds."""

_EVERYWHERE: Final = {IPFamily.IPV4: ("0.0.0.0",), IPFamily.IPV6: ("::",)}


class HealthCheckServers:
    """The health check servers of one IP family.

    `healthy` is asked at each request whether the proxy is. `on_failure` gets one sentence at each sync that cannot
    open a Service's server; the log has it once. `budget` is for the connections of all of them, and of whoever else
    shares it. `addresses` are where to listen, with none there is no server; None means all addresses of the family.
    """

    def __init__(
        self,
        family: IPFamily,
        healthy: Callable[[], bool],
        on_failure: Callable[[ServiceName, str], None],
        budget: ConnectionBudget,
        addresses: Iterable[str] | None = None,
    ) -> None:
        self._family = family
        self._healthy = healthy
        self._on_failure = on_failure
        self._budget = budget
        self._addresses = _EVERYWHERE[family] if addresses is None else tuple(addresses)
        self._servers: dict[ServiceName, _Server] = {}
        self._failures: dict[ServiceName, str] = {}
        self._patient = False

    async def sync(self, checks: Iterable[HealthCheck], *, patient: bool = False) -> None:
        """Serve `checks`, and no others; one with port 0 has no server.

        A server that stays answers with its new count from now on. Whatever cannot be opened is tried again each
        time; while `patient` the log does not have it. Of two Services with one port the one that is served already
        keeps it, else the first has it.
        """
        self._patient = patient
        wanted = {check.service: check for check in checks if check.port}
        for service, server in tuple(self._servers.items()):
            if service not in wanted or server.check.port != wanted[service].port:
                del self._servers[service]
                await server.close()
                self._log("Health check closed", server.check)
        self._failures = {service: text for service, text in self._failures.items() if service in wanted}
        for service, check in wanted.items():
            if service in self._servers:
                self._servers[service].check = check
            else:
                await self._open(check)

    async def _open(self, check: HealthCheck) -> None:
        server = _Server(check, self._healthy, self._budget)
        try:
            await server.open(self._addresses)
        except PortUnavailableError as error:
            self._fail(check, str(error))
        else:
            self._servers[check.service] = server
            self._failures.pop(check.service, None)
            self._log("Health check opened", check)

    def _fail(self, check: HealthCheck, reason: str) -> None:
        text = f"{check.service}: health check node port {check.port} is not served: {reason}"
        if self._failures.get(check.service) != text and not self._patient:
            self._failures[check.service] = text
            log.warning(text)
        self._on_failure(check.service, text)

    def _log(self, text: str, check: HealthCheck) -> None:
        log.debug(text, v=2, service=str(check.service), port=check.port, ip_family=self._family.value)

    async def close(self) -> None:
        """Close all servers."""
        await self.sync(())


class _Server:
    """What answers for one Service, on all addresses or on none."""

    def __init__(self, check: HealthCheck, healthy: Callable[[], bool], budget: ConnectionBudget) -> None:
        self.check = check
        self._healthy = healthy
        self._port = HttpPort(self._answer, budget, _MOST_OF_ONE)

    async def open(self, addresses: Iterable[str]) -> None:
        """Listen on each of `addresses`. Raises PortUnavailableError, and then listens nowhere."""
        try:
            for address in addresses:
                self._port.listen(listening_socket(SocketAddress(address, self.check.port), both_families=False))
        except PortUnavailableError:
            await self.close()
            raise

    async def close(self) -> None:
        """Let the port go at once; answers under way have a moment to end."""
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
