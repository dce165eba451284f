"""Lists in pages."""

from tests.cluster.examples import a_service, put
from tests.cluster.minimal_api import MinimalApi, minimal_api
from userproxy.cluster.api_errors import ExpiredError
from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.listing import ANY_VERSION, Listing, fetch
from userproxy.cluster.objects.reader import ObjectReader
from userproxy.cluster.objects.resources import services


async def _fetch(server: MinimalApi, count: int) -> Listing:
    for number in range(count):
        server.put(put(a_service(f"s{number}"), ("metadata", "namespace"), "shop"))
    client = await open_client(ApiAccess(master=server.url))
    try:
        return await fetch(client, services(None), ObjectReader(services(None)), ANY_VERSION)
    finally:
        await client.close()


async def test_pages_are_put_together() -> None:
    async with minimal_api() as server:
        listing = await _fetch(server, 1201)
        queries = [query for _, query, _ in server.requests]
    assert len(listing.readings) == 1201
    assert listing.version == str(10 + 1201)
    assert [query.get("continue") for query in queries] == [None, "500", "1000"]
    assert [query.get("resourceVersion") for query in queries] == ["0", None, None]


async def test_an_expired_page_starts_again_with_the_latest() -> None:
    async with minimal_api() as server:
        server.expire_pages(1)
        listing = await _fetch(server, 600)
        queries = [query for _, query, _ in server.requests]
    assert len(listing.readings) == 600
    assert [query.get("resourceVersion") for query in queries] == ["0", None, None, None]


async def test_pages_that_always_expire_are_given_up() -> None:
    async with minimal_api() as server:
        server.expire_pages(10)
        try:
            await _fetch(server, 600)
        except ExpiredError:
            return
    raise AssertionError("the list came to an end")
