"""One list of a resource, page by page.

See "Retrieving large results sets in chunks" and "Resource versions" in Kubernetes' API concepts.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from msgspec import Struct, field

from userproxy.cluster.client import ApiClient
from userproxy.cluster.failures import ExpiredError, UnreachableError
from userproxy.cluster.raw import UNREADABLE
from userproxy.cluster.reader import ObjectReader, Reading
from userproxy.cluster.resources import Resource
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
