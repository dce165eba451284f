"""As little of an API server as the tests of the source need: real HTTP, lists in pages, watches, and misbehaviour.

It refuses to stream lists, or answers with what a test has written for it; the lab's server streams them.
"""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

PATHS = {
    "/api/v1/services": "Service",
    "/apis/discovery.k8s.io/v1/endpointslices": "EndpointSlice",
    "/api/v1/nodes": "Node",
}


class MinimalApi:
    """Objects by kind and name, a history of changes, and switches for what goes wrong."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, dict[str, str], str]] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.headers: list[tuple[str, str]] = []
        """Those of the latest request."""
        self.token = ""
        self.cut_every = 0
        self.repeat = False
        self.streamed: bytes | None = None
        """What is sent to whoever wants a streamed list, after which nothing comes."""
        self._version = 10
        self._oldest = 0
        self._expire_pages = 0
        self._objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._history: list[tuple[int, str, bytes]] = []
        self._refusals: dict[str, tuple[int, dict[str, str]]] = {}
        self._news = asyncio.Event()
        self._streams: set[web.StreamResponse] = set()
        self._port = 0
        self._tls: ssl.SSLContext | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        self._tls = tls or self._tls
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Gone, as a killed process is; `start` brings it back at the same port."""
        self.cut()
        if self._runner:
            await self._runner.cleanup()
        self._runner = None

    def put(self, document: dict[str, Any]) -> None:
        key = self._key(document)
        change = "MODIFIED" if key in self._objects else "ADDED"
        self._version += 1
        self._objects[key] = {
            **document,
            "metadata": {**(document.get("metadata") or {}), "resourceVersion": str(self._version)},
        }
        self._record(change, self._objects[key])

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self._version += 1
        gone = self._objects.pop((kind, namespace, name))
        gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self._version)}}
        self._record("DELETED", gone)

    def cut(self) -> None:
        """Break every watch, wherever it is in a line."""
        for stream in self._streams:
            transport = stream._req.transport if stream._req else None
            if transport is not None:
                transport.abort()

    def expire(self) -> None:
        """Forget all history: whoever watched must list."""
        self._version += 1
        self._oldest = self._version
        self._history.clear()

    def expire_pages(self, times: int) -> None:
        """So many continue tokens will have expired."""
        self._expire_pages = times

    def refuse(self, path: str, status: int, **headers: str) -> None:
        self._refusals[path] = (status, headers)

    def accept(self) -> None:
        self._refusals.clear()

    def bookmark(self) -> None:
        self._version += 1
        for kind in PATHS.values():
            self._record("BOOKMARK", {"kind": kind, "metadata": {"resourceVersion": str(self._version)}})

    def _key(self, document: dict[str, Any]) -> tuple[str, str, str]:
        metadata = document["metadata"]
        return document["kind"], metadata.get("namespace", ""), metadata["name"]

    def _record(self, change: str, document: dict[str, Any]) -> None:
        line = json.dumps({"type": change, "object": document}, ensure_ascii=False).encode() + b"\n"
        self._history.append((self._version, document["kind"], line))
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path, query = request.path, dict(request.query)
        if "sendInitialEvents" in query:
            return _failure(422) if self.streamed is None else await self._stream(request, self.streamed)
        self.headers = list(request.headers.items())
        verb = "watch" if "watch" in query else "confirm" if query.get("limit") == "1" else "list"
        self.requests.append((path, query, request.headers.get("Authorization", "")))
        self.counts[verb, path] += 1
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _failure(401)
        if path in self._refusals:
            status, headers = self._refusals[path]
            return _failure(status, {name.replace("_", "-"): text for name, text in headers.items()})
        kind = PATHS[path]
        return await self._watch(request, kind, query) if verb == "watch" else self._list(kind, query)

    def _list(self, kind: str, query: dict[str, str]) -> web.Response:
        start, limit = int(query.get("continue", "0")), int(query["limit"])
        if start and self._expire_pages:
            self._expire_pages -= 1
            return _failure(410)
        mine = [document for key, document in sorted(self._objects.items()) if key[0] == kind]
        items = [{k: v for k, v in document.items() if k not in {"kind", "apiVersion"}} for document in mine]
        metadata = {"resourceVersion": str(self._version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        return web.json_response({"metadata": metadata, "items": items[start : start + limit]})

    async def _stream(self, request: web.Request, lines: bytes) -> web.StreamResponse:
        self.counts["stream", request.path] += 1
        response = web.StreamResponse()
        await response.prepare(request)
        self._streams.add(response)
        try:
            await response.write(lines)
            await asyncio.Event().wait()
        finally:
            self._streams.discard(response)
        return response

    async def _watch(self, request: web.Request, kind: str, query: dict[str, str]) -> web.StreamResponse:
        version = int(query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if version < self._oldest:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            return response
        self._streams.add(response)
        try:
            while True:
                news = self._news
                lines = [(at, line) for at, whose, line in self._history if at > version and whose == kind]
                for at, line in lines:
                    await self._write(response, line)
                    version = at
                await news.wait()
        finally:
            self._streams.discard(response)

    async def _write(self, response: web.StreamResponse, line: bytes) -> None:
        size = self.cut_every or len(line)
        for start in range(0, len(line), size):
            await response.write(line[start : start + size])
        if self.repeat:
            await response.write(line)


def _failure(status: int, headers: dict[str, str] | None = None) -> web.Response:
    reason = "Expired" if status == 410 else "Refused"
    body = {"kind": "Status", "code": status, "reason": reason, "message": f"refused with {status}"}
    return web.json_response(body, status=status, headers=headers)


@asynccontextmanager
async def minimal_api(tls: ssl.SSLContext | None = None) -> AsyncIterator[MinimalApi]:
    server = MinimalApi()
    await server.start(tls)
    try:
        yield server
    finally:
        await server.stop()
