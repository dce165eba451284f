"""One watch request: events from a version on, until the server or the silence ends it.

See "Efficient detection of changes" in Kubernetes' API concepts, and KEP-956 for bookmarks.
"""

from collections.abc import AsyncGenerator

import msgspec
from msgspec import Struct

from userproxy.cluster.client import ApiClient
from userproxy.cluster.failures import ApiError, ExpiredError, RefusedError, UnreachableError
from userproxy.cluster.framing import LineFramer
from userproxy.cluster.resources import Resource

CHANGES = frozenset({"ADDED", "MODIFIED", "DELETED"})


class WatchLimits(Struct, frozen=True):
    """How long one watch may last, in seconds.

    The server ends it after a time between `shortest` and `longest`, so that nodes spread over its replicas. It is
    given up after `silence` without a byte: a server sends a bookmark about every minute, and a connection that
    a load balancer dropped would otherwise never end. A list that is streamed is given up after `initial_silence`: a
    server that does not know of such lists never tells their end.
    """

    shortest: float = 300.0
    longest: float = 600.0
    silence: float = 150.0
    initial_silence: float = 10.0


class Event(Struct, frozen=True):
    """One change. `version` is what a later watch may go on from, or empty where the object does not say."""

    type: str
    data: msgspec.Raw
    namespace: str = ""
    name: str = ""
    version: str = ""


class _Line(Struct):
    type: str
    object: msgspec.Raw


class _Metadata(Struct, rename="camel"):
    namespace: str | None = None
    name: str | None = None
    resource_version: str | None = None


class _Head(Struct):
    metadata: _Metadata | None = None


class _Status(Struct):
    code: int | None = None
    message: str | None = None
    reason: str | None = None


async def watch(
    client: ApiClient, resource: Resource, version: str, seconds: float, silence: float
) -> AsyncGenerator[list[Event]]:
    """Events after `version`, as many at once as arrive together; none at first, when the server accepts the watch.

    It ends when the server ends it. Only what is newer than all before is given: a duplicate, or an old event that
    comes late, is none. Raises ExpiredError where only a new list helps, and another ApiError where the same watch may
    be tried again.
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

    Only what is newer than `version` and all before is an event. Unless `ordered`, everything is.
    """

    def __init__(self, resource: Resource, version: str, *, ordered: bool = True) -> None:
        self._resource = resource
        self._version = version
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
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                return events, UnreachableError(f"The watch of {self._resource.plural} is garbled: {error}")
            if line.type == "ERROR":
                return events, self._failure(line.object)
            event = self._event(line)
            if not self._ordered or self._is_new(event.version):
                events.append(event)
        return events, None

    def _event(self, line: _Line) -> Event:
        try:
            metadata = self._heads.decode(line.object).metadata or _Metadata()
        except (msgspec.MsgspecError, UnicodeDecodeError):  # bad metadata: whoever reads the object says so
            metadata = _Metadata()
        return Event(
            line.type, line.object, metadata.namespace or "", metadata.name or "", metadata.resource_version or ""
        )

    def _is_new(self, version: str) -> bool:
        """Whether `version` is later than all before; then it is the latest. Versions of one resource are ordered
        numbers (KEP-5504); what is no number is taken as new.
        """
        if version.isdecimal() and self._version.isdecimal() and int(version) <= int(self._version):
            return False
        self._version = version or self._version
        return True

    def _failure(self, data: msgspec.Raw) -> ApiError:
        try:
            status = msgspec.json.decode(data, type=_Status)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            status = _Status()
        text = f"The watch of {self._resource.plural} ended with an error: {status.message or 'no reason given'}"
        if status.code == 410 or status.reason in {"Expired", "Gone"}:
            return ExpiredError(text)
        return RefusedError(status.code or 500, text)
