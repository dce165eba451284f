"""One watch request: bytes become lines, and lines become events, until the server or an idle timeout ends it.

See "Efficient detection of changes" in Kubernetes' API concepts, and KEP-956 for bookmarks.
"""

from collections.abc import AsyncGenerator, Callable
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from userproxy.cluster.api_errors import ApiError, ExpiredError, RefusedError, Status, UnreachableError
from userproxy.cluster.client import ApiClient
from userproxy.cluster.objects.reader import ObjectReader, Reading
from userproxy.cluster.objects.resources import Resource
from userproxy.cluster.objects.schema import UNREADABLE

_MOST_DIGITS: Final = 20
"""Of a version that is a number: it has 64 bits."""

_ALONE: Final = 2
"""So many events are taken at once."""

CHANGES = frozenset({"ADDED", "MODIFIED", "DELETED"})
"""Types of events that say something of an object; the others are BOOKMARK and ERROR."""


class WatchLimits(Struct, frozen=True):
    """How long one watch may last, in seconds.

    The server is asked to end it after a time between `shortest` and `longest`, so that nodes spread over its replicas.
    It is given up after `idle_timeout` without a byte: a server sends a bookmark about every minute. (TCP keep-alive
    finds a dead machine sooner, see ApiClient; this is for a load balancer without a server behind it.) A streamed list
    is given up after `initial_idle_timeout`: a server that does not know such lists never sends their end.
    """

    shortest: float = 300.0
    longest: float = 600.0
    idle_timeout: float = 90.0
    initial_idle_timeout: float = 10.0


class Event(Struct, frozen=True, gc=False):
    """One change. `version` is what a later watch may go on from, or empty where the object does not say.

    `shaped` is the object in the shape of its resource, or None where it has another one.
    """

    type: str
    line: bytes
    shaped: Any = None
    namespace: str = ""
    name: str = ""
    version: str = ""

    def data(self) -> msgspec.Raw:
        """The object as it came."""
        return msgspec.json.decode(self.line, type=_Line).object


class _Line(Struct, gc=False):
    type: str
    object: msgspec.Raw


class _Metadata(Struct, rename="camel", gc=False):
    namespace: str | None = None
    name: str | None = None
    resource_version: str | None = None


class _Head(Struct, gc=False):
    metadata: _Metadata | None = None


async def watch(
    client: ApiClient,
    resource: Resource,
    version: str,
    seconds: float,
    idle_timeout: float,
    at_once: Callable[[list[Event]], None],
) -> AsyncGenerator[list[Event]]:
    """Events after `version`, in lists of those that arrive together. The first list is empty: the watch is accepted.

    Those that come alone are given to `at_once` instead, in the call in which they come, while the next list is waited
    for: it is to be a task only that cannot do with one turn of the loop. It ends when the server ends it, which is
    asked to do so after `seconds`. An event that comes twice is given once. Raises ExpiredError where only a new list
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

    def take(piece: bytes) -> bool:
        is_line = piece.find(b"\n") == len(piece) - 1  # nearly always; count() takes ten times as long
        if not is_line and piece.count(b"\n") > _ALONE:
            return False
        events, failure = stream.feed(piece)
        if events:
            at_once(events)
        if failure is not None:
            raise failure
        return True

    async with client.get(resource, "watch", query, idle_timeout) as body:
        yield []
        body.take = take
        async for piece in body:
            events, failure = stream.feed(piece)
            if events:
                yield events
            if failure is not None:
                raise failure


class EventReader:
    """Reads lines of a watch of one resource. Pure."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._shaped = msgspec.json.Decoder(_shaped_line(resource))
        self._lines = msgspec.json.Decoder(_Line)
        self._heads = msgspec.json.Decoder(_Head)

    def read(self, text: bytes) -> Event:
        """The event in a line. Raises ApiError where the line says that the watch has failed, or says nothing."""
        try:
            line = self._shaped.decode(text)  # at once: each time that it is skipped costs nearly as much
        except UNREADABLE:
            return self._read_odd(text)
        kind, shaped = line.type, line.object
        if kind not in CHANGES or shaped.metadata is None:
            return self._read_odd(text)
        metadata, version = shaped.metadata, shaped.metadata.resource_version
        if type(version) is not str:
            return self._read_odd(text)
        return Event(kind, text, shaped, metadata.namespace or "", metadata.name or "", version)

    def _read_odd(self, text: bytes) -> Event:
        """What is no change, or not of an object as it should be."""
        try:
            line = self._lines.decode(text)
        except UNREADABLE as error:
            raise UnreachableError(f"The watch of {self._resource.plural} is garbled: {error}") from error
        if line.type == "ERROR":
            raise self._failure(line.object)
        try:
            metadata = self._heads.decode(line.object).metadata or _Metadata()
        except UNREADABLE:  # ObjectReader, which reads the whole object, says what is wrong
            metadata = _Metadata()
        return Event(
            line.type, text, None, metadata.namespace or "", metadata.name or "", metadata.resource_version or ""
        )

    def _failure(self, data: msgspec.Raw) -> ApiError:
        try:
            status = msgspec.json.decode(data, type=Status)
        except UNREADABLE:
            status = Status()
        text = f"The watch of {self._resource.plural} ended with an error: {status.message or 'no reason given'}"
        if status.asks_for_a_list:
            return ExpiredError(text)
        return RefusedError(status.code or 500, text)


@cache
def _shaped_line(resource: Resource) -> type[Any]:
    """A line whose object has the shape of its resource."""
    return msgspec.defstruct("ShapedLine", [("type", str), ("object", resource.shape)], gc=False)


class EventStream:
    """Turns chunks of a watch's body into events. Pure.

    Versions of one resource are ordered numbers (KEP-5504), and a watch sends events in their order. So an event whose
    version was there already is a repetition and left out. Versions that go back mean that the server was restored from
    a backup; then only a new list helps.
    """

    def __init__(self, resource: Resource, version: str) -> None:
        self._resource = resource
        self._latest = _number(version)
        self._framer = LineFramer()
        self._reader = EventReader(resource)

    def feed(self, chunk: bytes) -> tuple[list[Event], ApiError | None]:
        """The events that `chunk` completes, and the error that ends the watch after them, if any."""
        events: list[Event] = []
        for text in self._framer.feed(chunk):
            try:
                event = self._reader.read(text)
            except ApiError as error:
                return events, error
            number = _number(event.version)
            if number is None or self._latest is None or number > self._latest:
                events.append(event)
            elif number < self._latest:
                return events, ExpiredError(f"The versions of {self._resource.plural} went back")
            self._latest = number or self._latest
        return events, None


def read_event(reader: ObjectReader, event: Event) -> Reading:
    """What an event says of its object."""
    if event.shaped is None:
        return reader.read(event.data())
    return reader.read_shaped(event.shaped, event.data)


def _number(version: str) -> int | None:
    """A version as a number; None for one that is not a number and cannot be compared."""
    return int(version) if version.isdecimal() and version.isascii() and len(version) <= _MOST_DIGITS else None


class LineFramer:
    """Cuts a stream of bytes into lines. Pure.

    A watch sends JSON objects, one a line. JSON has no raw line feed, and no byte of a multi-byte UTF-8 character is
    one, so bytes can be split before they are decoded. A line that is not whole when the stream ends is dropped: a
    watch from the version of the last whole line gets it again.
    """

    def __init__(self) -> None:
        # Pieces of a line are joined once, at its end: appending to bytes would copy a huge line with every chunk.
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their line feeds; blank lines are left out."""
        lines: list[bytes] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:  # a tenth of what split() takes, which looks at byte by byte
            line = data[start:end]
            if self._pieces:
                line = b"".join([*self._pieces, line])
                self._pieces.clear()
            if line and not line.isspace():
                lines.append(line)
            start = end + 1
        if start < len(data):
            self._pieces.append(data[start:])
        return lines
