"""Requests to the API server: streamed answers, errors by what the caller does next, credentials loaded again.

The transport (TLS, proxies, connections) is kubernetes_asyncio's. Its models and its Watch are not used: models cost a
hundred times as much as msgspec, and the Watch neither lists again nor has a time limit for an idle connection.
"""

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, closing, suppress
from typing import Any

import aiohttp
import msgspec
import structlog
from msgspec import Struct

from userproxy import __version__
from userproxy.cluster.api_errors import (
    ApiError,
    ExpiredError,
    IdleTimeoutError,
    NoConnectionError,
    RefusedError,
    Status,
    UnreachableError,
)
from userproxy.cluster.body import PIECE, Body
from userproxy.cluster.credentials import (
    ApiAccess,
    Credentials,
    authorization,
    check_certificates,
    digest_of,
    files_of,
    load,
    transport_fingerprint,
)
from userproxy.cluster.objects.resources import Resource
from userproxy.cluster.objects.schema import UNREADABLE
from userproxy.cluster.redaction import without_password
from userproxy.errors import UsageError

log = structlog.get_logger()

_CONNECT = 10.0
_WRITE_SECONDS = 10.0
"""Time limits for connecting, and for the answer to a write. Seconds."""
_CHECK_FILES_EVERY = 60.0
"""How often the files of our credentials are checked for changes. Seconds."""
_KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 40_000),
)
"""Socket options (level, option, value) by which the kernel notices within 45 s that the server's machine is gone."""
_LONGEST_ERROR = 64 * 1024
"""Bytes of an error's body that are read at most."""
_SECONDS = re.compile(r"[0-9]{1,9}")


class Answer(Struct, frozen=True):
    """What came back: the HTTP status, the body, of which the end may be cut off, and the header ``Date``."""

    status: int
    body: bytes
    date: str


class ApiClient:
    """A client of one API server, made by `open_client`. Whoever opens it closes it."""

    def __init__(self, access: ApiAccess, credentials: Credentials) -> None:
        self._access = access
        self._credentials = credentials
        self._digest = digest_of(files_of(access, credentials))
        self._check_files_at = time.monotonic() + _CHECK_FILES_EVERY
        self._fingerprint = transport_fingerprint(credentials.configuration)
        self._transport = _transport(credentials.configuration)
        self._retired: Any = None
        """The transport before the last change of certificates: its requests may go on until the next change."""
        self._renewing = asyncio.Lock()
        self._generation = 0

    @property
    def server(self) -> str:
        """The server's URL."""
        return str(self._credentials.configuration.host)

    @property
    def redacted_server(self) -> str:
        """The server's URL without a password that may be in it, for logs."""
        return without_password(self.server)

    async def close(self) -> None:
        """Close all connections."""
        for transport in filter(None, (self._transport, self._retired)):
            await transport.close()
        await asyncio.sleep(0)  # a closed transport lets go of its socket in the loop's next turn

    @asynccontextmanager
    async def get(
        self, resource: Resource, verb: str, query: Mapping[str, str], idle_timeout: float
    ) -> AsyncIterator[Body]:
        """The body of an answer, in pieces as they come.

        `verb` is what RBAC calls the request (``list``, ``watch``). Raises ApiError, also while it is read, where
        the server cannot be reached, refuses, or sends nothing for `idle_timeout` seconds. When the server does not
        know us (401), credentials are loaded again and the request is sent once more.
        """
        response = await self._send_authenticated("GET", resource.path, idle_timeout, query_params=query)
        try:
            if response.status != 200:
                raise await self._refusal(response, resource, verb)
            with closing(Body(response, idle_timeout, self._broken)) as body:
                yield body
        finally:
            response.close()  # A watch is never read to its end, so its connection cannot be used again.

    async def post(self, path: str, body: bytes) -> int:
        """Create an object from JSON and return the HTTP status, whatever it is. Raises ApiError without an answer."""
        return await self._write("POST", path, body, "application/json")

    async def review(self, path: str, body: bytes) -> Answer:
        """Post a question from JSON, such as a SelfSubjectAccessReview, of which nothing is kept.

        Raises ApiError without an answer.
        """
        response = await self._send_authenticated(
            "POST", path, _WRITE_SECONDS, headers={"Content-Type": "application/json"}, body=msgspec.json.decode(body)
        )
        try:
            async with aclosing(self._chunks(response)) as chunks:
                read = b""
                async for chunk in chunks:
                    read += chunk
                    if len(read) > _LONGEST_ERROR:
                        break
        finally:
            response.release()
        return Answer(response.status, read, response.headers.get("Date", ""))

    async def patch(self, path: str, body: bytes) -> int:
        """Change an object by a JSON merge patch (RFC 7396); otherwise as `post`."""
        return await self._write("PATCH", path, body, "application/merge-patch+json")

    async def _write(self, method: str, path: str, body: bytes, content_type: str) -> int:
        headers = {"Content-Type": content_type}
        response = await self._send_authenticated(
            method, path, _WRITE_SECONDS, headers=headers, body=msgspec.json.decode(body)
        )
        await self._finish(response)
        return response.status

    async def _finish(self, response: aiohttp.ClientResponse) -> None:
        """Read an answer whose body does not matter, so that the next request can use its connection."""
        try:
            async with aclosing(self._chunks(response)) as chunks:
                length = 0
                async for chunk in chunks:
                    length += len(chunk)
                    if length > _LONGEST_ERROR:
                        break
        except ApiError as error:
            log.debug("An answer broke off", v=4, reason=str(error))
        finally:
            response.release()

    async def _send_authenticated(
        self, method: str, path: str, idle_timeout: float, **request: Any
    ) -> aiohttp.ClientResponse:
        """Send, and where the server answers 401 load the credentials again and send once more."""
        generation = self._generation
        response = await self._send(method, path, idle_timeout, **request)
        if response.status == 401:
            response.release()
            await self._renew(generation)
            response = await self._send(method, path, idle_timeout, **request)
        return response

    async def _send(self, method: str, path: str, idle_timeout: float, **request: Any) -> aiohttp.ClientResponse:
        await self._reload_changed_files()
        headers = await authorization(self._credentials)
        headers["Accept"] = "application/json"
        headers["User-Agent"] = f"userproxy/{__version__}"
        headers.update(request.pop("headers", {}))
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=idle_timeout)
        try:
            response: aiohttp.ClientResponse = await self._transport.request(
                method,
                self.server + path,
                headers=headers,
                **request,
                _preload_content=False,
                _request_timeout=limits,
            )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._check_files_at = 0.0  # our certificates may be out of date: check their files before the next request
            raise self._unreachable(error) from error
        _keep_alive(response)
        return response

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        try:
            while data := await response.content.read(PIECE):
                yield data
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> ApiError:
        """What to say of an answer that breaks off."""
        if isinstance(error, aiohttp.SocketTimeoutError):
            return IdleTimeoutError(f"The API server {self.redacted_server} fell silent")
        return self._unreachable(error)

    def _unreachable(self, error: Exception) -> UnreachableError:
        kind = UnreachableError
        match error:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
                reason = f"TLS fails: {error.certificate_error if hasattr(error, 'certificate_error') else error}"
            case aiohttp.ClientConnectorDNSError():
                why = error.os_error.strerror or str(error.os_error)
                kind, reason = NoConnectionError, f"{error.host} cannot be resolved: {why.lower()}"
            case aiohttp.ClientConnectorError():
                reason = os.strerror(error.errno).lower() if error.errno else str(error.os_error)
                kind = NoConnectionError
            case aiohttp.ConnectionTimeoutError():
                kind, reason = NoConnectionError, f"no connection within {_CONNECT:.0f} s"
            case aiohttp.SocketTimeoutError():
                reason = "it does not answer"
            case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | ConnectionError():
                reason = "the connection broke"
            case aiohttp.ClientHttpProxyError():
                kind, reason = NoConnectionError, f"the proxy answers {error.status}"
            case OSError():
                reason = (error.strerror or type(error).__name__).lower()
            case _:  # aiohttp's texts may hold the URL, and with it a password
                reason = f"the request fails ({type(error).__name__})"
        return kind(f"The API server {self.redacted_server} cannot be reached: {reason}")

    async def _refusal(self, response: aiohttp.ClientResponse, resource: Resource, verb: str) -> ApiError:
        try:
            async with aclosing(self._chunks(response)) as chunks:
                body = b""
                async for chunk in chunks:
                    body += chunk
                    if len(body) > _LONGEST_ERROR:
                        break
            status = msgspec.json.decode(body, type=Status)
        except (UnreachableError, *UNREADABLE):
            status = Status()
        if response.status == 410 or status.asks_for_a_list or _is_no_version(response, status):
            return ExpiredError(f"The API server has forgotten where the {verb} of {resource.plural} was")
        return RefusedError(
            response.status,
            _sentence(response.status, status.message, resource, verb),
            _seconds(response.headers.get("Retry-After")),
        )

    async def _renew(self, generation: int) -> None:
        """Load the credentials again, unless another request has done so since ours was sent."""
        async with self._renewing:
            if generation != self._generation:
                return
            self._generation += 1
            log.debug("The API server does not know us; loading the credentials again", v=1)
            try:
                await self._load()
            except UsageError as error:
                raise RefusedError(401, f"The API server does not know us (401), and {error}") from error

    async def _reload_changed_files(self) -> None:
        """Load the credentials again where the kubeconfig or a certificate has been replaced."""
        if time.monotonic() < self._check_files_at:
            return
        self._check_files_at = time.monotonic() + _CHECK_FILES_EVERY
        latest = await asyncio.to_thread(digest_of, files_of(self._access, self._credentials))
        if latest in {None, self._digest}:
            return
        async with self._renewing:
            self._digest = latest
            try:
                await self._load()
            except UsageError as error:
                log.warning("Credentials have changed and cannot be used: the old ones stay", reason=str(error))
            else:
                log.info("Credentials have changed and were read again")

    async def _load(self) -> None:
        """Use what the files say now. Raises UsageError, and then the credentials stay as they were."""
        credentials = await load(self._access)
        fingerprint = transport_fingerprint(credentials.configuration)
        if fingerprint != self._fingerprint:
            check_certificates(credentials.configuration, self._access)
            if self._retired is not None:
                await self._retired.close()
            self._retired, self._transport = self._transport, _transport(credentials.configuration)
            self._fingerprint = fingerprint
            if credentials.configuration.host != self._credentials.configuration.host:
                await self._retired.close()
        self._credentials = credentials


async def open_client(access: ApiAccess) -> ApiClient:
    """A client with its credentials loaded; nothing is sent yet.

    Raises UsageError with one sentence where configuration, credentials or certificates cannot be used.
    """
    credentials = await load(access)
    check_certificates(credentials.configuration, access)
    return ApiClient(access, credentials)


def _transport(configuration: Any) -> Any:
    from kubernetes_asyncio.client.rest import RESTClientObject

    return RESTClientObject(configuration)


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Make the kernel notice that the server's machine is gone, as client-go does by HTTP/2 pings.

    A watch sends nothing, so without keep-alive a dead connection would stay. TCP_USER_TIMEOUT is for what was sent and
    is not acknowledged (RFC 5482).
    """
    transport = response.connection.transport if response.connection else None
    sock = transport.get_extra_info("socket") if transport else None
    if sock is not None:
        with suppress(OSError):  # it has broken already
            for level, option, value in _KEEP_ALIVE:
                sock.setsockopt(level, option, value)


def _is_no_version(response: aiohttp.ClientResponse, status: Status) -> bool:
    """Whether the server cannot read our version."""
    return response.status == 400 and "resource version" in (status.message or "").lower()


def _sentence(status: int, message: str | None, resource: Resource, verb: str) -> str:
    match status:
        case 401:
            return "The API server does not know us (401), even with credentials loaded again"
        case 403:
            return (
                f"The API server forbids to {verb} {resource.plural} (403); this RBAC rule in our ClusterRole"
                f" allows it: {resource.rule}"
            )
        case 429:
            return "The API server has too much to do (429)"
        case _:
            return f"The API server answers {status} to {verb} {resource.plural}: {message or 'no reason given'}"


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; API servers do not send its other form, a date."""
    return float(text) if text is not None and _SECONDS.fullmatch(text) else None
