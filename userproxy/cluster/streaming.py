"""One list of a resource as the initial events of a watch, which costs the API server far less than pages.

See "Streaming lists" in Kubernetes' API concepts, and KEP-3157.
"""

import msgspec
from msgspec import Struct, field

from userproxy.cluster.client import ApiClient
from userproxy.cluster.failures import UnreachableError
from userproxy.cluster.listing import Listing
from userproxy.cluster.raw import UNREADABLE
from userproxy.cluster.reader import ObjectReader, Reading
from userproxy.cluster.resources import Resource
from userproxy.cluster.watching import CHANGES, Event, EventStream
from userproxy.pace import Pace


class _Annotations(Struct):
    end: str | None = field(name="k8s.io/initial-events-end", default=None)


class _Metadata(Struct):
    annotations: _Annotations | None = None


class _Bookmark(Struct):
    metadata: _Metadata | None = None


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
        metadata = msgspec.json.decode(event.data, type=_Bookmark).metadata or _Metadata()
    except UNREADABLE:
        metadata = _Metadata()
    if metadata.annotations is None or metadata.annotations.end != "true" or not event.version:
        raise UnreachableError(f"The API server does not tell where the streamed list of {resource.plural} ends")
    return event.version
