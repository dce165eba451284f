"""One watch request: events from a version on, until the server or the silence ends it.

See "Efficient detection of changes" in Kubernetes' API concepts, and KEP-956 for bookmarks.
"""

import re
from collections.abc import AsyncGenerator

import msgspec
from msgspec import Struct

from userproxy.cluster.api_errors import ApiError, ExpiredError, RefusedError, UnreachableError
from userproxy.cluster.client import ApiClient
from userproxy.cluster.objects.resources import Resource
from userproxy.cluster.objects.schema import UNREADABLE

_VERSION = re.compile(r"[0-9]{1,20}")

CHANGES = frozenset({"ADDED", "MODIFIED", "DELETED"})


class WatchLimits(Struct, frozen=True):
    """How long one watch may last, in seconds.

    The server ends it after a time between `shortest` and `longest`, so that nodes spread over its replicas. It is
    given up after `silence` without a byte: a server sends a bookmark about every minute. (TCP notices sooner that the
    other end is gone, see ApiClient; this is for a load balancer with nothing behind it.) A list that is streamed is
    given up after `initial_silence`: a server that does not know of such lists never tells their end.
    """

    shortest: float = 300.0
    longest: float = 600.0
    silence: float = 90.0
    initial_silence: float = 10.0


class Event(Struct, frozen=True, gc=False):
    """One change. `version` is what a later watch may go on from, or empty where the object does not say."""

    type: str
    data: msgspec.Raw
    namespace: str = ""
    name: str = ""
    version: str = ""


class _Line(Struct, gc=False):
    type: str
    object: msgspec.Raw


class _Metadata(Struct, rename="camel", gc=False):
    namespace: str | None = None
    name: str | None = None
    resource_version: str | None = None


class _Head(Struct, gc=False):
    metadata: _Metadata | None = None


class _Status(Struct):
    code: int | None = None
    message: str | None = None
    reason: str | None = None


async def watch(
    client: ApiClient, resource: Resource, version: str, seconds: float, silence: float
) -> AsyncGenerator[list[Event]]:
    """Events after `version`, as many at once as arrive together; none at first, when the server accepts the watch.

    It ends when the server ends it. An event that comes twice is given once. Raises ExpiredError where only a new list
    helps, and another ApiError where the same watch may be tried again.
    """
    query = {
        **resource.selectors,
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(round(seconds)),
    }
    stream = EventStream(resource, version)
    async with client.get(resource, "watch", query, silence) as chunks:
        yield []
        async for chunk in chunks:
            events, failure = stream.feed(chunk)
            if events:
                yield events
            if failure is not None:
                raise failure


class EventStream:
    """Chunks of a watch's body become events. Pure.

    Versions of one resource are ordered numbers (KEP-5504), and a watch tells of them in their order: an event that
    comes twice is one. Where they go back the server is not what it was, as after a restore from a backup, and only a
    new list shows what is there. Unless `ordered`, versions decide nothing.
    """

    def __init__(self, resource: Resource, version: str, *, ordered: bool = True) -> None:
        self._resource = resource
        self._latest = _number(version)
        self._ordered = ordered
        self._framer = LineFramer()
        self._lines = msgspec.json.Decoder(_Line)
        self._heads = msgspec.json.Decoder(_Head)

    def feed(self, chunk: bytes) -> tuple[list[Event], ApiError | None]:
        """The events that `chunk` completes, and what ends the watch after them."""
        events: list[Event] = []
        for text in self._framer.feed(chunk):
            try:
                line = self._lines.decode(text)
            except UNREADABLE as error:
                return events, UnreachableError(f"The watch of {self._resource.plural} is garbled: {error}")
            if line.type == "ERROR":
                return events, self._failure(line.object)
            event = self._event(line)
            number = _number(event.version) if self._ordered else None
            if number is None or self._latest is None or number > self._latest:
                events.append(event)
            elif number < self._latest:
                return events, ExpiredError(f"The versions of {self._resource.plural} went back")
            self._latest = number or self._latest
        return events, None

    def _event(self, line: _Line) -> Event:
        try:
            metadata = self._heads.decode(line.object).metadata or _Metadata()
        except UNREADABLE:  # bad metadata: whoever reads the object says so
            metadata = _Metadata()
        return Event(
            line.type, line.object, metadata.namespace or "", metadata.name or "", metadata.resource_version or ""
        )

    def _failure(self, data: msgspec.Raw) -> ApiError:
        try:
            status = msgspec.json.decode(data, type=_Status)
        except UNREADABLE:
            status = _Status()
        text = f"The watch of {self._resource.plural} ended with an error: {status.message or 'no reason given'}"
        if status.code == 410 or status.reason in {"Expired", "Gone"}:
            return ExpiredError(text)
        return RefusedError(status.code or 500, text)


def _number(version: str) -> int | None:
    """A version as a number; None for one that is none, with which nothing can be compared."""
    return int(version) if _VERSION.fullmatch(version) else None


class LineFramer:
    """Collects bytes and gives back lines as they become whole.

    A line that is not whole when the stream ends was never delivered: whoever reads on from the version of the
    last whole line gets it again.
    """

    def __init__(self) -> None:
        # Pieces of one line are joined once, at its end: appending to bytes would copy a huge line at every cut.
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their line feeds; blank lines are left out."""
        first, *rest = data.split(b"\n")
        self._pieces.append(first)
        if not rest:
            return []
        lines = [b"".join(self._pieces), *rest[:-1]]
        self._pieces = [rest[-1]]
        return [line for line in lines if line.strip()]
