"""The admin API's server: HTTP on a Unix socket, for root and the user that userproxy runs as."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct

from userproxy import __version__
from userproxy.admin.capturing import MOST_CAPTURES, NOT_ALLOWED, TOO_MANY, write_capture
from userproxy.admin.client import RETRY_AFTER
from userproxy.admin.explaining import NotExplainedError, explained
from userproxy.admin.items import Configuration, Differences, Failure, Status, Version
from userproxy.admin.listening import AdminSocket, SocketTakenError, SocketUnavailableError, may_ask, socket_name
from userproxy.admin.openapi import document
from userproxy.admin.parameters import BadParameterError, Filter, parse
from userproxy.admin.routes import ROUTES, CaptureRoute, ObjectRoute, Route, parameters_of
from userproxy.admin.rows import Planes
from userproxy.admin.steering.refusals import RefusedError
from userproxy.admin.steering.routes import WRITES
from userproxy.admin.steering.writing import perform
from userproxy.admin.streaming import JSON, write_changes, write_list
from userproxy.model.data_plane import HandedOverError
from userproxy.sockets import NamedSockets
from userproxy.telemetry.http import SHUTDOWN_SECONDS, http_logger

log = structlog.get_logger()

_HEADERS: Final = {"Server": f"userproxy/{__version__}", "X-Content-Type-Options": "nosniff"}
_TRY_EVERY: Final = 5.0
_TRY_EVERY_PREDECESSOR: Final = 0.1
_LOOKS: Final = 20
_NO_DESCRIPTOR_SECONDS: Final = 0.1
_IDLE_SECONDS: Final = 30.0


class Objects(Struct, frozen=True):
    """Who makes the answers that are one object."""

    configuration: Callable[[], Configuration]
    version: Callable[[], Version]
    status: Callable[[], Awaitable[Status]]
    differences: Callable[[], Awaitable[Differences]]


class AdminServer:
    """Serves the admin API at `path`, as soon as nobody else does.

    While `may_have_predecessor` is true, the process that this one replaces may still have the path, so it is tried
    more often, and nothing is logged. `most` is how many connections there may be at the same time. Captures are
    refused unless `may_capture` is true. `sockets` may have the socket of another process.
    """

    def __init__(
        self,
        path: Path,
        planes: Planes,
        objects: Objects,
        may_have_predecessor: Callable[[], bool] = lambda: False,
        most: int = 16,
        may_capture: Callable[[], bool] = lambda: False,
        sockets: NamedSockets | None = None,
    ) -> None:
        self._path = path
        self._sockets = sockets
        self._most = most
        self._answers = _Answers(planes, objects, may_capture)
        self._may_have_predecessor = may_have_predecessor

    async def run(self) -> None:
        """Serve until cancelled. Whatever is wrong with the path is logged once, and tried again."""
        admin_socket = await self._listen()
        try:
            log.debug("Listening", v=1, server="admin", address=str(self._path))
            await serve(admin_socket.socket, self._answers.answer, self._most)
        finally:
            admin_socket.close()

    async def _listen(self) -> AdminSocket:
        complained = False
        while True:
            try:
                return AdminSocket(self._path, self._sockets)
            except SocketUnavailableError as error:
                if isinstance(error, SocketTakenError) and self._may_have_predecessor():
                    await self._until_given()
                    continue
                if not complained:
                    text = "Commands cannot ask this userproxy: it does not get the admin socket"
                    log.warning(text, path=str(self._path), reason=str(error), retry_seconds=_TRY_EVERY)
                    complained = True
                await asyncio.sleep(_TRY_EVERY)

    async def _until_given(self) -> None:
        """Wait a moment; longer for a predecessor that is to hand its socket over: each try is a client of its."""
        for _ in range(_LOOKS):
            await asyncio.sleep(_TRY_EVERY_PREDECESSOR)
            sockets = self._sockets
            if sockets is None or not sockets.are_awaited or sockets.has(socket_name(self._path)):
                break


async def serve(
    listening: socket.socket, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], most: int
) -> None:
    """Answer the HTTP requests of those who may ask, at a listening Unix socket, until cancelled.

    There are at most so many connections at the same time; who comes then is told so.
    """
    loop = asyncio.get_running_loop()
    server = web.Server(
        answer,
        handler_cancellation=True,
        access_log=None,
        logger=http_logger(),
        keepalive_timeout=_IDLE_SECONDS,
        lingering_time=0.0,
    )
    try:
        while True:
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError:  # no descriptor or memory is left
                await asyncio.sleep(_NO_DESCRIPTOR_SECONDS)
                continue
            if not may_ask(client):
                _refuse(client, 403, "userproxy answers root and its own user alone")
            elif len(server.connections) >= most:
                _refuse(client, 503, f"{most} others are asking already: try again")
            else:
                await _join(client, server)
    finally:
        server.pre_shutdown()
        await server.shutdown(SHUTDOWN_SECONDS)


async def _join(client: socket.socket, server: web.Server) -> None:
    try:
        await asyncio.get_running_loop().connect_accepted_socket(server, client)
    except OSError:  # it has gone already
        client.close()


def _refuse(client: socket.socket, status: int, text: str) -> None:
    """Send an answer without having heard the question, as far as the kernel takes it at once."""
    body = msgspec.json.encode(Failure(text))
    lines = [f"HTTP/1.1 {status} Refused", *(f"{name}: {value}" for name, value in _HEADERS.items())]
    lines += [f"Content-Type: {JSON}", f"Content-Length: {len(body)}", "Connection: close", "", ""]
    with client:
        client.settimeout(0)
        with suppress(OSError):
            client.send("\r\n".join(lines).encode() + body)


class _Answers:
    def __init__(self, planes: Planes, objects: Objects, may_capture: Callable[[], bool]) -> None:
        self._planes = planes
        self._objects = objects
        self._may_capture = may_capture
        self._captures = 0
        self._routes: Mapping[str, Route] = {f"/v1/{each.path}": each for each in ROUTES}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ConnectionError:  # the client has gone
            raise
        except HandedOverError as error:
            if request.writer.output_size and request.transport is not None:
                request.transport.abort()  # half of a list cannot be followed by anything else
            answer = _failure(503, str(error), **{RETRY_AFTER: "0"})
            answer.force_close()  # who asks again does so by a connection of its own, and so asks who serves now
            return answer
        except Exception:
            log.exception("A question to the admin API could not be answered", path=request.path)
            if request.writer.output_size:  # half of a list cannot be followed by anything else
                raise
            return _failure(500, "userproxy has failed to answer, and its log says why")

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        route = self._routes.get(request.path)
        if route is None:
            paths = ", ".join(self._routes)
            return _failure(404, f"there is no {request.path} here, but {paths}")
        if request.method not in ("GET", "HEAD"):
            return await self._write(request, route)
        try:
            asked = parse(request.query.items(), parameters_of(route))
        except BadParameterError as error:
            return _failure(400, str(error))
        if isinstance(route, ObjectRoute):
            try:
                return _whole(200, await self._object(route, asked))
            except NotExplainedError as error:
                return _failure(404, str(error))
        if isinstance(route, CaptureRoute):
            return await self._capture(request, asked)
        if request.method == "HEAD":
            return _whole(200, b"")
        if asked.watch:
            return await write_changes(request, route.changes(self._planes, asked), _HEADERS)
        return await write_list(request, route.rows(self._planes, asked), asked.limit, _HEADERS)

    async def _write(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        writes = {each.method: each for each in WRITES if each.path == route.path}
        write = writes.get(request.method)
        if write is None:
            what = f"takes GET, HEAD, {', '.join(writes)}" if writes else "can only be read"
            return _failure(405, f"{request.path} {what}", Allow=", ".join(("GET", "HEAD", *writes)))
        try:
            return _whole(200, await perform(request, write, self._planes))
        except BadParameterError as error:
            return _failure(400, str(error))
        except RefusedError as error:
            return _failure(error.status, str(error))

    async def _capture(self, request: web.BaseRequest, asked: Filter) -> web.StreamResponse:
        if not self._may_capture():
            return _failure(403, NOT_ALLOWED)
        if self._captures >= MOST_CAPTURES:
            return _failure(503, TOO_MANY)
        if request.method == "HEAD":
            return _whole(200, b"")
        self._captures += 1
        try:
            return await write_capture(request, self._planes.data, asked, _HEADERS)
        finally:
            self._captures -= 1

    async def _object(self, route: ObjectRoute, asked: Filter) -> bytes:
        match route.path:
            case "configuration":
                return msgspec.json.encode(self._objects.configuration())
            case "version":
                return msgspec.json.encode(self._objects.version())
            case "status":
                return msgspec.json.encode(await self._objects.status())
            case "diff":
                return msgspec.json.encode(await self._objects.differences())
            case "explain":
                return msgspec.json.encode(await explained(self._planes, asked))
        return document()


def _whole(status: int, body: bytes, **headers: str) -> web.Response:
    return web.Response(status=status, body=body, headers={**_HEADERS, **headers, "Content-Type": JSON})


def _failure(status: int, text: str, **headers: str) -> web.Response:
    return _whole(status, msgspec.json.encode(Failure(text)), **headers)
