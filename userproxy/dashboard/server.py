"""The dashboard's server: HTTP on loopback, for the user who has started it."""

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web

from userproxy import __version__
from userproxy.admin.client import AdminError
from userproxy.dashboard.admission import HEADERS, Admission
from userproxy.dashboard.collector import Collector
from userproxy.dashboard.figures.frames import Frame, Frames
from userproxy.dashboard.figures.looks import Look, ServicePort, Want
from userproxy.dashboard.files import page_files
from userproxy.dashboard.peers import user_of
from userproxy.dashboard.upstream import RefusedError, Upstream
from userproxy.model import Endpoint

MOST_TABS: Final = 6
"""Tabs that are told of changes at the same time: each may cost the proxy one watch, of which it has few."""

CHANGES: Final = (
    ("POST", "drains"),
    ("DELETE", "drains"),
    ("POST", "faults"),
    ("DELETE", "faults"),
    ("DELETE", "connections"),
)
"""What a page may ask the admin API to change, by method and route. Whether it is allowed is the proxy's to say."""

_MOST_BYTES: Final = 65_536
_TOKEN_BYTES: Final = 32
_JSON: Final = "application/json"
_LINES: Final = "application/x-ndjson"
_LEAST_SECONDS: Final = 0.2
"""Between two writes to a tab: so many decisions as fall meanwhile are one frame."""


class DashboardServer:
    """Serves the page at a listening socket of 127.0.0.1 to programs of `users` alone. `link` opens it, once."""

    def __init__(
        self, listening: socket.socket, upstream: Upstream, collector: Collector, users: frozenset[int]
    ) -> None:
        self._listening = listening
        self._upstream = upstream
        self._collector = collector
        self._users = users
        self._ours = Endpoint(*listening.getsockname())
        self._admission = Admission(self._ours.port, lambda: secrets.token_urlsafe(_TOKEN_BYTES))
        self._files = page_files()
        self._tabs = 0

    @property
    def link(self) -> str:
        """Where the page is, with the token that opens it."""
        return self._admission.link

    async def run(self) -> None:
        """Serve until cancelled."""
        application = web.Application(middlewares=[self._admitted], client_max_size=_MOST_BYTES)
        application.router.add_get("/live", self._live)
        application.router.add_post("/session", self._open_session)
        for method, route in CHANGES:
            application.router.add_route(method, f"/{route}", self._change)
        for path in self._files:
            application.router.add_get(path, self._file)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.SockSite(runner, self._listening).start()
            await asyncio.get_running_loop().create_future()
        finally:
            await runner.cleanup()

    @web.middleware
    async def _admitted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            refused = self._refusal(request)
            answer = refused if refused is not None else await handler(request)
        except web.HTTPException as error:
            answer = _failure(error.status, f"{request.method} {request.path}: {error.reason.lower()}")
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
        if not answer.prepared:
            _dress(answer)
        return answer

    def _refusal(self, request: web.Request) -> web.Response | None:
        reason = self._admission.refusal(request.method, request.headers)
        if reason is not None:
            return _failure(403, reason)
        if not self._is_of_our_user(request):
            return _failure(403, "this page is for the user who has started it")
        if request.path in self._files or request.path == "/session":
            return None
        if not self._admission.knows(request.cookies.get(self._admission.cookie, "")):
            return _failure(401, "open the link that `userproxy dashboard` has printed: it is good for one browser")
        return None

    def _is_of_our_user(self, request: web.Request) -> bool:
        peer = None if request.transport is None else request.transport.get_extra_info("peername")
        return peer is not None and user_of(self._ours, Endpoint(*peer)) in self._users

    async def _file(self, request: web.Request) -> web.Response:
        found = self._files[request.path]
        return web.Response(body=found.content, headers={"Content-Type": found.content_type})

    async def _open_session(self, request: web.Request) -> web.Response:
        try:
            token = msgspec.json.decode(await request.read(), type=dict[str, str]).get("token", "")
        except msgspec.DecodeError:
            return _failure(400, "a session is opened with a token")
        session = self._admission.exchange(token)
        if session is None:
            return _failure(403, "this link was used already, or is not whole: start `userproxy dashboard` again")
        answer = web.Response(status=204)
        answer.set_cookie(self._admission.cookie, session, path="/", httponly=True, samesite="Strict")
        return answer

    async def _change(self, request: web.Request) -> web.Response:
        """What the proxy answers to a change."""
        body = await request.read()
        parameters = {name: request.query.getall(name) for name in request.query}
        route = request.path.removeprefix("/")
        try:
            answer = await self._upstream.change(request.method, route, parameters, body)
        except RefusedError as error:
            return _failure(error.status, str(error))
        except AdminError as error:
            return _failure(502, str(error))
        self._collector.hurry()
        return web.Response(body=msgspec.json.encode(answer), headers={"Content-Type": _JSON})

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """Frames as lines of JSON, until the tab goes."""
        want = _want(request)
        if want is None:
            return _failure(400, f"{request.query.get('service')!r} is no port of a Service")
        if self._tabs >= MOST_TABS:
            return _failure(503, f"the page is open {MOST_TABS} times already: close one of them")
        answer = web.StreamResponse(headers={"Content-Type": _LINES})
        _dress(answer)
        await answer.prepare(request)
        self._tabs += 1
        try:
            await self._write_frames(answer, want)
        finally:
            self._tabs -= 1
        return answer

    async def _write_frames(self, answer: web.StreamResponse, want: Want) -> None:
        frames, number, count = Frames(want), -1, 0
        with self._collector.reading(want) as reader:
            while True:
                lines: list[Frame] = []
                items, missing = reader.feed.since(count)
                if items or missing:
                    count = reader.feed.count
                    lines.append(frames.decisions(items, missing))
                look = self._collector.look
                if look.number != number and _is_complete(look, want):
                    number = look.number
                    lines += frames.look(look, self._collector.history)
                for line in lines:
                    await answer.write(msgspec.json.encode(line) + b"\n")
                await reader.woken.wait()
                reader.woken.clear()
                await asyncio.sleep(_LEAST_SECONDS)


def _want(request: web.Request) -> Want | None:
    """What a tab asks for; None if it names no port of a Service."""
    name = request.query.get("service", "")
    subject = ServicePort.parse(name) if name else None
    if name and subject is None:
        return None
    return Want(subject, request.query.get("served") == "true", request.query.get("connections") == "true")


def _is_complete(look: Look, want: Want) -> bool:
    """Whether a look has what a tab wants, which may have come after it had begun."""
    if not look.number or look.trouble:
        return bool(look.number)
    return want.subject is None or want.subject in look.details


def _dress(answer: web.StreamResponse) -> None:
    answer.headers.update(HEADERS)
    answer.headers["Server"] = f"userproxy/{__version__}"


def _failure(status: int, text: str) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode({"error": text}), headers={"Content-Type": _JSON})
