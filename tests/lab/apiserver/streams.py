"""Watch streams: history, then what happens, with everything that can go wrong on the way."""

import asyncio
from collections.abc import Iterator, Mapping

import msgspec
from aiohttp import web

from tests.lab.apiserver.faults import Cut, Faults
from tests.lab.apiserver.listing import parse_revision, predicate_of
from tests.lab.apiserver.resources import Target
from tests.lab.apiserver.status import ApiError, invalid_options, too_large, too_old
from tests.lab.apiserver.storage import Change, Storage

_USUAL_TIMEOUT = 1800.0
_BOOKMARK_EVERY = 60.0


class Stream:
    """One watch. `serve` runs until the time is up, the client leaves or a fault ends it.

    Raises ApiError for a query that a watch cannot have.
    """

    def __init__(self, storage: Storage, faults: Faults, target: Target, query: Mapping[str, str]) -> None:
        self.target = target
        self.duplicates = 0
        """So many of the next events come twice."""
        self.cut_next: Cut | None = None
        """Where the next event is cut."""
        self._storage = storage
        self._faults = faults
        self._predicate = predicate_of(target, query)
        self._bookmarks = query.get("allowWatchBookmarks", "") in ("true", "1")
        self._initial = _wants_initial_events(query, faults)
        self._start = parse_revision(query.get("resourceVersion", ""))
        self._timeout = float(query.get("timeoutSeconds") or _USUAL_TIMEOUT)
        self._cursor = 0
        self._live = False
        self._owed: list[bytes] = []
        self._news = asyncio.Event()
        self._over = False
        self._stalled_until = 0.0
        if not self._initial and self._start and faults.gone_as == "http" and self._start < storage.oldest:
            raise too_old(self._start, storage.oldest)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self._response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._response.enable_chunked_encoding()
        await self._response.prepare(request)
        self._transport = request.transport
        loop = asyncio.get_running_loop()
        self._bookmark_at = loop.time() + _BOOKMARK_EVERY
        deadline = loop.time() + self._timeout
        try:
            for line in self._opening():
                await self._send(line)
            while not self._over and loop.time() < deadline:
                self._news.clear()
                if not await self._may_go_on():
                    break
                for line in self._due(loop.time()):
                    await self._send(line)
                await self._wait(min(deadline, self._bookmark_at) - loop.time())
            await self._may_go_on()
        except ApiError as error:
            await self._send(_line("ERROR", msgspec.json.encode(error.status())))
        return self._response

    def wake(self) -> None:
        """There may be something to send."""
        self._news.set()

    def bookmark(self) -> None:
        """Send one now, if the client has asked for bookmarks."""
        self._bookmark_at = 0.0
        self._news.set()

    def replay(self, count: int) -> None:
        """Send the last `count` changes once more: late and twice, each object's newest state last.

        Among them may be some that are still to be sent. Then all of those come along, for no server sends a change
        before an older one: a client that has seen the newer rightly takes the older for a repetition.
        """
        if not self._cursor:
            return
        sent = [change for change in self._storage.tail(self.target.resource, count) if change.revision <= self._cursor]
        _, unsent = self._storage.since(self.target.resource, self._cursor, live=True)
        self._owed += self._lines(sent + unsent)
        self._news.set()

    def stall(self, seconds: float) -> None:
        """Neither bytes nor FIN for `seconds`, whatever happens; then the connection is aborted."""
        self._stalled_until = asyncio.get_running_loop().time() + seconds
        self._news.set()

    def resume(self) -> None:
        """End a stall without harm: what was withheld is sent."""
        self._stalled_until = 0.0
        self._news.set()

    def cut(self, at: Cut, line: bytes = b"") -> None:
        """End the stream now, after a piece of `line` or of an event that never was."""
        self._over = True
        self._news.set()
        transport = self._transport
        if at == "end" or transport is None or transport.is_closing():
            return
        self._stalled_until = 0.0
        transport.write(_piece(at, line or _never_was(self.target)))
        transport.close()

    async def _send(self, line: bytes) -> None:
        if not await self._may_go_on():
            return
        if self.cut_next:
            self.cut(self.cut_next, line)
            return
        if self._faults.slow is None:
            await self._response.write(line)
            return
        size, pause = self._faults.slow
        for start in range(0, len(line), size):
            if self._over:
                return
            await self._response.write(line[start : start + size])
            await asyncio.sleep(pause)

    async def _may_go_on(self) -> bool:
        """Whether the stream is still there, once a stall is over."""
        loop = asyncio.get_running_loop()
        while self._stalled_until:
            if loop.time() >= self._stalled_until:
                self._over = True
                self._stalled_until = 0.0
                if self._transport is not None:
                    self._transport.abort()
                break
            self._news.clear()
            await self._wait(self._stalled_until - loop.time())
        return not self._over

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._news.wait()
        except TimeoutError:
            return

    def _opening(self) -> Iterator[bytes]:
        """What a new watch gets before anything happens."""
        if self._start and not self._initial:
            self._cursor = self._start
            return
        if self._initial and not self._faults.progress:
            raise ApiError(500, "etcd event received with PrevKv=nil")
        if self._initial and self._start > self._storage.revision:
            raise too_large(self._start, self._storage.revision)
        self._cursor, entries = self._storage.snapshot(self.target.resource)
        self._live = True
        for _, version in entries:
            if self._predicate(version.document):
                yield _line("ADDED", version.full)
        if self._initial and self._bookmarks:
            yield self._bookmark_line({"k8s.io/initial-events-end": "true"})

    def _due(self, now: float) -> Iterator[bytes]:
        """Everything to be sent at this moment."""
        owed, self._owed = self._owed, []
        yield from owed
        if self.target.resource.plural in self._faults.held:
            return
        newest, changes = self._storage.since(self.target.resource, self._cursor, live=self._live)
        self._live = True
        for line in self._lines(changes):
            yield line
            if self.duplicates > 0:
                self.duplicates -= 1
                yield line
        self._cursor = max(self._cursor, newest)
        if now >= self._bookmark_at:
            self._bookmark_at = now + _BOOKMARK_EVERY
            if self._bookmarks:
                yield self._bookmark_line({})

    def _lines(self, changes: list[Change]) -> list[bytes]:
        seen = (change.seen_through(self._predicate) for change in changes)
        return [_line(event[0], event[1].full) for event in seen if event]

    def _bookmark_line(self, annotations: dict[str, str]) -> bytes:
        metadata: dict[str, object] = {"resourceVersion": str(self._cursor), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        resource = self.target.resource
        body = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        return _line("BOOKMARK", msgspec.json.encode(body))


def _wants_initial_events(query: Mapping[str, str], faults: Faults) -> bool:
    asked = query.get("sendInitialEvents")
    match = query.get("resourceVersionMatch", "")
    if asked is None:
        if match:
            complaint = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            raise invalid_options("resourceVersionMatch", complaint)
        return False
    faults.check_streaming_lists()
    if match != "NotOlderThan":
        complaint = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        raise invalid_options("resourceVersionMatch", complaint)
    return asked in ("true", "1")


def _line(kind: str, body: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), body)


def _never_was(target: Target) -> bytes:
    resource = target.resource
    metadata = {"name": "never-was", "namespace": "default", "annotations": {"note": "nie – für niemanden"}}
    body = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return _line("ADDED", msgspec.json.encode(body))


def _piece(at: Cut, line: bytes) -> bytes:
    """What goes out last, in the framing of RFC 9112, section 7.1."""
    if at == "between":
        return b""
    if at == "chunk":
        return b"%x\r\n%s" % (len(line), line[: len(line) // 2])
    piece = line[: len(line) // 2]
    if at == "utf8":
        start = next((place for place, byte in enumerate(line) if byte >= 0xC0), None)
        piece = piece + b"\xc3" if start is None else line[: start + 1]
    return b"%x\r\n%s\r\n" % (len(piece), piece)
