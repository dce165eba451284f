"""One list of a resource: in pages, or streamed as the initial events of a watch, which costs the API server far less.

See "Retrieving large results sets in chunks", "Streaming lists" and "Resource versions" in Kubernetes' API concepts,
and KEP-3157.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from msgspec import Struct, field

from userproxy.cluster.api_errors import ExpiredError, UnreachableError
from userproxy.cluster.client import ApiClient
from userproxy.cluster.known_lines import KnownLines
from userproxy.cluster.objects.keys import ClusterObject, ObjectKey, key_of, object_key
from userproxy.cluster.objects.reader import ObjectReader, Reading
from userproxy.cluster.objects.resources import Resource
from userproxy.cluster.objects.schema import UNREADABLE
from userproxy.cluster.watch_stream import CHANGES, Event, EventReader, LineFramer, read_event
from userproxy.pace import Pace

ANY_VERSION = "0"
"""Whatever the server has in its cache: when all nodes start at once, their first lists must not load etcd."""
LATEST_VERSION = ""
"""The latest version, which the server may have to read from etcd."""

_PAGE = 500
_IDLE_TIMEOUT = 60.0


class _Metadata(Struct, rename="camel"):
    resource_version: str | None = None
    next_page: str | None = field(name="continue", default=None)


class _Page(Struct):
    metadata: _Metadata | None = None
    items: list[msgspec.Raw] | None = None


class Listing(Struct, frozen=True):
    """What was read of the objects of a resource, and the version of the list, after which a watch goes on.

    Of objects that have no name nothing is known but that there are some, beneath None.
    """

    readings: dict[ObjectKey | None, Reading]
    version: str


async def fetch_paged(client: ApiClient, resource: Resource, reader: ObjectReader, version: str) -> Listing:
    """All objects in pages, as of `version` or later; each page is read before the next is requested.

    Where the server has forgotten the version or the continue token, it begins again with the latest version.
    Raises ApiError.
    """
    try:
        return await _fetch_pages(client, resource, reader, version)
    except ExpiredError:
        return await _fetch_pages(client, resource, reader, LATEST_VERSION)


async def confirm_version(client: ApiClient, resource: Resource, version: str) -> None:
    """Check with the smallest request there is that the server has reached `version`.

    Raises ExpiredError where it has not: it is behind, or was restored from a backup, and only a new list helps. Raises
    another ApiError where it does not answer.
    """
    query = {
        **resource.selectors,
        "limit": "1",
        "resourceVersion": version or ANY_VERSION,
        "resourceVersionMatch": "NotOlderThan",
    }
    async with client.get(resource, "list", query, _IDLE_TIMEOUT) as chunks:
        async for _ in chunks:
            pass


async def _fetch_pages(client: ApiClient, resource: Resource, reader: ObjectReader, version: str) -> Listing:
    readings: dict[ObjectKey | None, Reading] = {}
    pace = Pace()
    async with aclosing(_pages(client, resource, version)) as pages:
        async for page in pages:
            for data in page.items or ():
                reading = reader.read(data)
                readings[reading.key] = reading
                await pace.keep()
            metadata = page.metadata or _Metadata()
    return Listing(readings, metadata.resource_version or "")


async def _pages(client: ApiClient, resource: Resource, version: str) -> AsyncGenerator[_Page, None]:
    query = {**resource.selectors, "limit": str(_PAGE)}
    decoder = msgspec.json.Decoder(_Page)
    # Without a match, a limited list at a version means exactly that version, which may be compacted already.
    since = {"resourceVersion": version, "resourceVersionMatch": "NotOlderThan"} if version else {}
    while True:
        async with client.get(resource, "list", {**query, **since}, _IDLE_TIMEOUT) as chunks:
            body = b"".join([chunk async for chunk in chunks])
        try:
            page = decoder.decode(body)
        except UNREADABLE as error:
            raise UnreachableError(f"The list of {resource.plural} is not what Kubernetes answers: {error}") from error
        yield page
        if page.metadata is None or not page.metadata.next_page:
            return
        since = {"continue": page.metadata.next_page}


async def fetch_items(client: ApiClient, resource: Resource, version: str) -> AsyncGenerator[list[msgspec.Raw], None]:
    """The objects of one list as bytes, page by page. Raises ApiError; a list that expires is not begun again."""
    async with aclosing(_pages(client, resource, version)) as pages:
        async for page in pages:
            yield page.items or []


class _BookmarkAnnotations(Struct):
    end: str | None = field(name="k8s.io/initial-events-end", default=None)


class _BookmarkMetadata(Struct):
    annotations: _BookmarkAnnotations | None = None


class _Bookmark(Struct):
    metadata: _BookmarkMetadata | None = None


async def fetch_streamed(
    client: ApiClient,
    resource: Resource,
    reader: ObjectReader,
    known: KnownLines[ClusterObject],
    version: str,
    idle_timeout: float,
) -> Listing:
    """All objects as the initial events of a watch, as of `version` or later; the watch is ended after them.

    Lines that are `known` are not read again. Raises RefusedError where the server does not offer such lists or refuses
    for another reason, ExpiredError where it does not know the version, and UnreachableError where the stream ends, or
    is idle for `idle_timeout` seconds, before the list is complete. A server that does not know such lists accepts the
    watch and sends no initial events.
    """
    query = {
        **resource.selectors,
        "watch": "true",
        "allowWatchBookmarks": "true",
        "sendInitialEvents": "true",
        "resourceVersion": version,
        "resourceVersionMatch": "NotOlderThan",
    }
    initial = _InitialEvents(resource, reader, known)
    framer = LineFramer()
    pace = Pace()
    await known.begin()
    async with client.get(resource, "watch", query, idle_timeout) as chunks:
        async for chunk in chunks:
            for line in framer.feed(chunk):
                if (last := initial.take(line)) is not None:
                    version = _version_of_all(last, resource)
                    await known.end()
                    return Listing(initial.readings, version)
                await pace.keep()
    raise UnreachableError(f"The streamed list of {resource.plural} broke off")


class _InitialEvents:
    """The objects of a streamed list, which may change while they come. They are not ordered by their versions."""

    def __init__(self, resource: Resource, reader: ObjectReader, known: KnownLines[ClusterObject]) -> None:
        self.readings: dict[ObjectKey | None, Reading] = {}
        self._kind = resource.kind
        self._events = EventReader(resource)
        self._reader = reader
        self._complained_of = reader.complained_of
        self._known = known

    def take(self, line: bytes) -> Event | None:
        """Take one line into the list; returns the event if it is a bookmark. Raises ApiError."""
        item = self._known.recall(line)
        if item is not None and (key := object_key(item)) not in self._complained_of:
            self.readings[key] = Reading(key, item, good=True)
            return None
        event = self._events.read(line)
        if event.type == "BOOKMARK":
            return event
        if event.type == "DELETED":
            self.readings.pop(key_of(self._kind, event.namespace, event.name), None)
        elif event.type in CHANGES:
            self._read(line, event)
        return None

    def _read(self, line: bytes, event: Event) -> None:
        reading = read_event(self._reader, event)
        self.readings[reading.key] = reading
        if reading.item is not None and reading.key not in self._reader.complained_of:
            self._known.learn(line, reading.item)


def _version_of_all(event: Event, resource: Resource) -> str:
    """The version of the bookmark that ends the list.

    Raises UnreachableError for another bookmark, since no server that streams a list sends one before its end.
    """
    try:
        metadata = msgspec.json.decode(event.data(), type=_Bookmark).metadata or _BookmarkMetadata()
    except UNREADABLE:
        metadata = _BookmarkMetadata()
    if metadata.annotations is None or metadata.annotations.end != "true" or not event.version:
        raise UnreachableError(f"The API server does not tell where the streamed list of {resource.plural} ends")
    return event.version
