"""One list of a resource, page by page.

See "Retrieving large results sets in chunks" and "Resource versions" in Kubernetes' API concepts.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from msgspec import Struct, field

from userproxy.cluster.api_errors import ExpiredError, UnreachableError
from userproxy.cluster.client import ApiClient
from userproxy.cluster.objects.reader import ObjectReader, Reading
from userproxy.cluster.objects.resources import Resource
from userproxy.cluster.objects.schema import UNREADABLE
from userproxy.cluster.watch_stream import CHANGES, Event, EventStream
from userproxy.pace import Pace

ANY_VERSION = "0"
"""Whatever the server has at hand: the first list of every node at once must not reach through to etcd."""
LATEST_VERSION = ""
"""What is true now, however dear."""

_PAGE = 500
_SILENCE = 60.0


class _Metadata(Struct, rename="camel"):
    resource_version: str | None = None
    next_page: str | None = field(name="continue", default=None)


class _Page(Struct):
    metadata: _Metadata | None = None
    items: list[msgspec.Raw] | None = None


class Listing(Struct, frozen=True):
    """The objects of a resource, and the version of the whole from which a watch goes on."""

    readings: list[Reading]
    version: str


async def fetch(client: ApiClient, resource: Resource, reader: ObjectReader, version: str) -> Listing:
    """All objects, as of `version` or later; each page is read before the next is asked for.

    A version or a continue token that the server does not know any longer makes it start again with the latest.
    Raises ApiError.
    """
    try:
        return await _fetch_pages(client, resource, reader, version)
    except ExpiredError:
        return await _fetch_pages(client, resource, reader, LATEST_VERSION)


async def confirm(client: ApiClient, resource: Resource, version: str) -> None:
    """Ask the server for as little as possible that is not older than `version`.

    Raises ExpiredError where it has not got as far: it is behind, or was restored from a backup, and only a new list
    helps. Raises another ApiError where it does not answer.
    """
    query = {
        **resource.selectors,
        "limit": "1",
        "resourceVersion": version or ANY_VERSION,
        "resourceVersionMatch": "NotOlderThan",
    }
    async with client.get(resource, "list", query, _SILENCE) as chunks:
        async for _ in chunks:
            pass


async def _fetch_pages(client: ApiClient, resource: Resource, reader: ObjectReader, version: str) -> Listing:
    readings: list[Reading] = []
    pace = Pace()
    async with aclosing(_pages(client, resource, version)) as pages:
        async for page in pages:
            for data in page.items or ():
                readings.append(reader.read(data))
                await pace.keep()
            metadata = page.metadata or _Metadata()
    return Listing(readings, metadata.resource_version or "")


async def _pages(client: ApiClient, resource: Resource, version: str) -> AsyncGenerator[_Page, None]:
    query = {**resource.selectors, "limit": str(_PAGE)}
    decoder = msgspec.json.Decoder(_Page)
    # Without a match, a limited list at a version means exactly that version, which may be compacted already.
    since = {"resourceVersion": version, "resourceVersionMatch": "NotOlderThan"} if version else {}
    while True:
        async with client.get(resource, "list", {**query, **since}, _SILENCE) as chunks:
            body = b"".join([chunk async for chunk in chunks])
        try:
            page = decoder.decode(body)
        except UNREADABLE as error:
            raise UnreachableError(f"The list of {resource.plural} is not what Kubernetes answers: {error}") from error
        yield page
        if page.metadata is None or not page.metadata.next_page:
            return
        since = {"continue": page.metadata.next_page}


async def items(client: ApiClient, resource: Resource, version: str) -> AsyncGenerator[list[msgspec.Raw], None]:
    """The objects of one list as they came, page by page. Raises ApiError; a list that expires is not begun again."""
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
    client: ApiClient, resource: Resource, reader: ObjectReader, version: str, silence: float
) -> Listing:
    """All objects, as of `version` or later; the watch is left as soon as it has told them all.

    Raises RefusedError where the server does not offer such lists or refuses for another reason, ExpiredError where it
    does not know the version, and UnreachableError where the stream ends, or has nothing for `silence` seconds, before
    all is told. So it is with a server that ignores what it was asked for and merely watches.
    """
    query = {
        **resource.selectors,
        "watch": "true",
        "allowWatchBookmarks": "true",
        "sendInitialEvents": "true",
        "resourceVersion": version,
        "resourceVersionMatch": "NotOlderThan",
    }
    # The objects that are there come in no order of versions.
    stream = EventStream(resource, version, ordered=False)
    readings: dict[tuple[str, str], Reading] = {}
    pace = Pace()
    async with client.get(resource, "watch", query, silence) as chunks:
        async for chunk in chunks:
            events, failure = stream.feed(chunk)
            for event in events:
                if event.type == "BOOKMARK":
                    return Listing(list(readings.values()), _version_of_all(event, resource))
                _apply(event, readings, reader)
                await pace.keep()
            if failure is not None:
                raise failure
    raise UnreachableError(f"The streamed list of {resource.plural} broke off")


def _apply(event: Event, readings: dict[tuple[str, str], Reading], reader: ObjectReader) -> None:
    """What changes while the list is told comes among it."""
    key = (event.namespace, event.name)
    if event.type == "DELETED":
        readings.pop(key, None)
    elif event.type in CHANGES:
        readings[key] = reader.read(event.data)


def _version_of_all(event: Event, resource: Resource) -> str:
    """The version of a bookmark that ends the list. No server that streams a list sends another one before."""
    try:
        metadata = msgspec.json.decode(event.data, type=_Bookmark).metadata or _BookmarkMetadata()
    except UNREADABLE:
        metadata = _BookmarkMetadata()
    if metadata.annotations is None or metadata.annotations.end != "true" or not event.version:
        raise UnreachableError(f"The API server does not tell where the streamed list of {resource.plural} ends")
    return event.version
