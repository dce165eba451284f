"""The HTTP servers of kube-proxy's two ports: ``/healthz`` and ``/livez``, and ``/metrics`` with a few more paths."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct

from userproxy.addresses import SocketAddress
from userproxy.errors import PortUnavailableError
from userproxy.sockets import NamedSockets
from userproxy.telemetry.health import Answer, Health
from userproxy.telemetry.http import JSON, NO_SNIFFING, listening_socket
from userproxy.telemetry.http_connections import ConnectionBudget, Handler, HttpPort
from userproxy.telemetry.metrics import Metrics
from userproxy.telemetry.timestamps import Clock

log = structlog.get_logger()

_TEXT: Final = {"Content-Type": "text/plain; charset=utf-8", **NO_SNIFFING}
_PROMETHEUS: Final = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}


_PREDECESSOR_EVERY: Final = 0.1


class BindPolicy(Struct, frozen=True):
    """What happens if a server's address is taken: the process ends (`hard_fail`), or it tries again.

    `retry_every` is seconds. While `may_have_predecessor` is true, the process that this one replaces may still have
    the address, so it is tried more often, and nothing is logged. The defaults are kube-proxy's.
    """

    hard_fail: bool = False
    retry_every: float = 5.0
    may_have_predecessor: Callable[[], bool] = lambda: False


class HttpServer:
    """A server on one HTTP port, which listens as soon as its address is free.

    `name` is its name in the log, `answer` answers its requests. `on_hard_failure` gets one sentence before
    :meth:`run` raises. `sockets` may have a socket for it, of another process.
    """

    def __init__(
        self,
        name: str,
        address: SocketAddress,
        answer: Handler,
        budget: ConnectionBudget,
        policy: BindPolicy,
        on_hard_failure: Callable[[str], None] | None = None,
        sockets: NamedSockets | None = None,
    ) -> None:
        self._name = name
        self._address = address
        self._answer = answer
        self._budget = budget
        self._policy = policy
        self._on_hard_failure = on_hard_failure
        self._sockets = sockets or NamedSockets()
        self.bound: SocketAddress | None = None
        """Where it listens now; None as long as it does not."""

    async def run(self) -> None:
        """Serve until cancelled. Raises PortUnavailableError at once if that is the policy."""
        port = HttpPort(self._answer, self._budget)
        try:
            listening = await self._listen()
            host, number = listening.getsockname()[:2]
            port.listen(listening)
            self.bound = SocketAddress(host, number)
            log.debug("Listening", v=1, server=self._name, address=str(self.bound))
            await asyncio.Event().wait()
        finally:
            self.bound = None
            await port.close()

    async def _listen(self) -> socket.socket:
        complained = False
        while True:
            inherited = self._sockets.take(f"{self._name} {self._address}")
            if inherited is not None:
                return inherited
            try:
                opened = listening_socket(self._address)
                self._sockets.use(f"{self._name} {self._address}", opened)
                return opened
            except PortUnavailableError as error:
                text = f"{self._name}: {error}"
                if self._policy.may_have_predecessor():
                    await asyncio.sleep(_PREDECESSOR_EVERY)
                    continue
                if self._policy.hard_fail:
                    self._fail_hard(text, error)
            if not complained:
                log.error(text, retry_seconds=self._policy.retry_every)
                complained = True
            await asyncio.sleep(self._policy.retry_every)

    def _fail_hard(self, text: str, error: PortUnavailableError) -> None:
        if self._on_hard_failure is not None:
            self._on_hard_failure(text)
        raise PortUnavailableError(text) from error


def health_app(health: Health, metrics: Metrics, clock: Clock) -> Handler:
    """``/healthz`` and ``/livez``, with any method."""

    async def healthz(_request: web.BaseRequest) -> web.Response:
        answer = health.healthz(clock())
        metrics.healthz_answered(answer.status)
        return _json_response(answer)

    async def livez(_request: web.BaseRequest) -> web.Response:
        answer = health.livez(clock())
        metrics.livez_answered(answer.status)
        return _json_response(answer)

    return _by_path({"/healthz": healthz, "/livez": livez})


def metrics_app(metrics: Metrics, configuration: Callable[[], Mapping[str, object]]) -> Handler:
    """``/metrics``, ``/healthz``, ``/proxyMode`` and ``/configz``, with any method.

    `configuration` is called at each request, and returns a KubeProxyConfiguration in the form of its file.
    """

    async def metrics_text(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=await metrics.render(), headers=_PROMETHEUS)

    async def healthz(request: web.BaseRequest) -> web.Response:
        verbose = "verbose" in request.query
        return _text_response("[+]ping ok\nhealthz check passed\n" if verbose else "ok")

    async def proxy_mode(_request: web.BaseRequest) -> web.Response:
        return _text_response("userspace")

    async def configz(_request: web.BaseRequest) -> web.Response:
        body = msgspec.json.encode({"kubeproxy.config.k8s.io": configuration()})
        return web.Response(body=body, headers=JSON)

    return _by_path({"/metrics": metrics_text, "/healthz": healthz, "/proxyMode": proxy_mode, "/configz": configz})


def _by_path(handlers: Mapping[str, Handler]) -> Handler:
    async def answer(request: web.BaseRequest) -> web.Response:
        handler = handlers.get(request.path)
        return web.Response(status=404) if handler is None else await handler(request)

    return answer


def _json_response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=JSON)


def _text_response(text: str) -> web.Response:
    return web.Response(body=text.encode(), headers=_TEXT)
