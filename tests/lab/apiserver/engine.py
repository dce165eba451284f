"""The server inside its event loop: listening, streams, and everything that can be told to it."""

import asyncio
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiohttp import web

from tests.lab.apiserver.faults import HANG, TRUNCATE, Cut, Faults, Trouble, plurals
from tests.lab.apiserver.resources import resource_of
from tests.lab.apiserver.rest import Recorded, Rest
from tests.lab.apiserver.status import ApiError
from tests.lab.apiserver.storage import Object, Storage
from tests.lab.apiserver.streams import Stream
from tests.lab.apiserver.tls import Certificates


class Engine:
    """Its public methods are what ``/_lab/`` and the Python interface offer; all run in the loop.

    `port` 0 lets the kernel choose once; the server comes back on the same port.
    """

    def __init__(self, host: str, port: int, files: Certificates | None) -> None:
        self.port = port
        self.faults = Faults()
        self.storage = Storage(self._on_change)
        self.rest = Rest(self.storage, self.faults)
        self._host = host
        self._tls = files.context() if files else None
        self._runner: web.AppRunner | None = None
        self._control: web.AppRunner | None = None
        self._loop = asyncio.get_running_loop()
        self._wake_due = False

    async def start(self) -> None:
        """Listen; nothing where it does already."""
        if self._runner is None:
            self._runner = await _runner("/{path:.*}", self.rest.handle, self._lab)
            site = web.TCPSite(self._runner, self._host, self.port, ssl_context=self._tls, reuse_address=True)
            await site.start()
            self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Die as a killed process does: all connections are reset, new ones refused, and history is forgotten."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self.storage.restarted()
        for site in list(runner.sites):
            await site.stop()
        for stream in list(self.rest.streams):
            stream.cut("end")
        for connection in runner.server.connections if runner.server else []:
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def listen_control(self, path: Path) -> None:
        """Serve ``/_lab/`` on a Unix socket too, which stays when the server is stopped."""
        self._control = await _runner("/_lab/{method}", self._lab, self._lab)
        await web.UnixSite(self._control, str(path)).start()

    async def close(self) -> None:
        await self.stop()
        if self._control is not None:
            await self._control.cleanup()

    def put(self, *documents: Object) -> None:
        for document in documents:
            self.storage.put(document)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self.storage.delete(resource_of(kind), (namespace, name))

    def objects(self) -> list[Object]:
        return [msgspec.json.decode(version.full) for version in self.storage.all()]

    def requests(self) -> list[Recorded]:
        return list(self.rest.requests)

    def streams(self, resource: str | None = None) -> int:
        """How many watches are open."""
        return len(self._streams(resource))

    def cut_streams(self, at: Cut = "line", resource: str | None = None, next_event: bool = False) -> None:
        for stream in self._streams(resource):
            if next_event:
                stream.cut_next = at
            else:
                stream.cut(at)

    def stall(self, seconds: float = 60.0, resource: str | None = None) -> None:
        for stream in self._streams(resource):
            stream.stall(seconds)

    def resume(self) -> None:
        for stream in self._streams(None):
            stream.resume()

    def slow_streams(self, size: int = 7, pause: float = 0.0) -> None:
        """Streams send `size` bytes a chunk and pause after each; size 0 ends it."""
        self.faults.slow = (size, pause) if size else None

    def duplicate(self, count: int) -> None:
        for stream in self._streams(None):
            stream.duplicates = count

    def replay(self, count: int) -> None:
        for stream in self._streams(None):
            stream.replay(count)

    def skew(self, seconds: float) -> None:
        self.faults.clock_ahead = seconds

    def hold(self, *resources: str) -> None:
        self.faults.held |= plurals(resources)

    def release(self) -> None:
        self.faults.held.clear()
        self._wake()

    def bookmark(self) -> None:
        for stream in self._streams(None):
            stream.bookmark()

    def compact(self) -> int:
        return self.storage.compact()

    def gone_as(self, way: Literal["event", "http"]) -> None:
        self.faults.gone_as = way

    def streaming_lists(self, status: int = 200) -> None:
        self.faults.streaming_lists = status

    def progress(self, told: bool = True) -> None:
        self.faults.progress = told

    def restore(self, revision: int) -> None:
        self.storage.restore(revision)

    def fail_next(self, count: int, status: int, retry_after: int | None = None, resource: str | None = None) -> None:
        self.faults.add(Trouble(count, status, _plural(resource), retry_after))

    def hang_next(self, count: int, seconds: float = 30.0, resource: str | None = None) -> None:
        self.faults.add(Trouble(count, HANG, _plural(resource), seconds=seconds))

    def truncate_next(self, count: int, resource: str | None = None) -> None:
        self.faults.add(Trouble(count, TRUNCATE, _plural(resource)))

    def forbid(self, *resources: str) -> None:
        self.faults.forbidden |= plurals(resources)

    def allow(self, *resources: str) -> None:
        self.faults.forbidden -= plurals(resources)

    def set_tokens(self, tokens: Iterable[str]) -> None:
        """The only valid tokens from now on; authentication is on."""
        self.rest.tokens = set(tokens)
        self.rest.authenticate = True

    def _streams(self, resource: str | None) -> list[Stream]:
        plural = _plural(resource)
        return [stream for stream in self.rest.streams if plural in (None, stream.target.resource.plural)]

    def _on_change(self) -> None:
        """Called in any thread: many changes wake the streams once."""
        if not self._wake_due:
            self._wake_due = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._wake_due = False
        for stream in self.rest.streams:
            stream.wake()

    async def call(self, method: str, arguments: list[Any], options: dict[str, Any]) -> Any:
        """A public method by name. Raises KeyError where there is none."""
        function = None if method.startswith("_") else getattr(self, method, None)
        if not inspect.ismethod(function):
            raise KeyError(method)
        result = function(*arguments, **options)
        return await result if inspect.isawaitable(result) else result

    async def _lab(self, request: web.Request) -> web.Response:
        """POST /_lab/<method> with ``[[positional], {named}]``; the answer is the result as JSON."""
        arguments, options = msgspec.json.decode(await request.read() or b"[[], {}]")
        try:
            result = await self.call(request.match_info["method"], arguments, options)
        except (ApiError, KeyError, TypeError) as error:
            return web.Response(status=400, text=f"{type(error).__name__}: {error}")
        return web.Response(body=msgspec.json.encode(result), content_type="application/json")


async def _runner(path: str, handler: Callable[..., Any], lab: Callable[..., Any]) -> web.AppRunner:
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/_lab/{method}", lab)
    if not path.startswith("/_lab"):
        application.router.add_route("*", path, handler)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    return runner


def _plural(resource: str | None) -> str | None:
    return None if resource is None else resource_of(resource).plural
