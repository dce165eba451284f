"""Lists in pages, and lists as the initial events of a watch."""

import json
from typing import Any

import pytest

from tests.cluster.examples import a_service, event_line, put, service
from tests.cluster.following import following, until
from tests.cluster.minimal_api import PATHS, MinimalApi, minimal_api
from tests.cluster.requests import fetch_stream
from tests.lab.apiserver import FakeApiServer
from userproxy.cluster.api_errors import ExpiredError, UnreachableError
from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.known_lines import KnownLines
from userproxy.cluster.listing import ANY_VERSION, Listing, fetch_paged
from userproxy.cluster.objects.keys import ClusterObject
from userproxy.cluster.objects.reader import ObjectReader
from userproxy.cluster.objects.resources import services
from userproxy.model import Service


async def _fetch(server: MinimalApi, count: int) -> Listing:
    for number in range(count):
        server.put(put(a_service(f"s{number}"), ("metadata", "namespace"), "shop"))
    client = await open_client(ApiAccess(master=server.url))
    try:
        return await fetch_paged(client, services(None), ObjectReader(services(None)), ANY_VERSION)
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


SERVICES, SLICES, NODES = PATHS
END = {"annotations": {"k8s.io/initial-events-end": "true"}}


def bookmark(version: int | None, metadata: dict[str, Any]) -> bytes:
    return event_line("BOOKMARK", {"kind": "Service", "apiVersion": "v1", "metadata": metadata}, version)


def ports(listing: Listing) -> dict[str, int]:
    return {item.name: item.ports[0].port for r in listing.readings.values() if isinstance(item := r.item, Service)}


async def test_objects_come_in_any_order_and_change_while_they_come(server: MinimalApi) -> None:
    server.streamed = (
        event_line("ADDED", service("web"), 17)
        + event_line("ADDED", service("old"), 5)
        + event_line("ADDED", service("short"), 9)
        + event_line("MODIFIED", service("web", 81), 20)
        + event_line("DELETED", service("short"), 21)
        + bookmark(22, END)
        + event_line("ADDED", service("later"), 23)
    )
    listing = await fetch_stream(server.url)
    assert ports(listing) == {"web": 81, "old": 80}
    assert listing.version == "22"


async def test_an_object_that_comes_again_as_it_was_is_not_read_again(server: MinimalApi) -> None:
    web, old = event_line("ADDED", service("web"), 17), event_line("ADDED", service("old"), 5)
    odd = event_line("ADDED", put(service("odd"), ("spec", "externalIPs"), ["nonsense"]), 6)
    bad = event_line("ADDED", put(service("bad"), ("spec", "ports"), 1), 7)
    reader, known = ObjectReader(services(None)), KnownLines[ClusterObject]()

    async def fetch(*lines: bytes) -> dict[str, ClusterObject | None]:
        server.streamed = b"".join((*lines, bookmark(22, END)))
        listing = await fetch_stream(server.url, reader=reader, known=known)
        return {key.name: reading.item for key, reading in listing.readings.items() if key is not None}

    first = await fetch(web, old, odd, bad)
    second = await fetch(web, event_line("ADDED", service("old", 81), 18), odd, bad)
    assert first.keys() == second.keys() == {"web", "old", "odd", "bad"}
    assert second["web"] is first["web"]
    assert second["old"] != first["old"]
    assert second["odd"] == first["odd"]
    assert second["odd"] is not first["odd"]  # so that what is wrong with it is noticed again
    assert second["bad"] is None


async def test_an_object_that_is_good_again_as_it_was_is_no_problem_any_longer(server: MinimalApi) -> None:
    good = event_line("ADDED", service("web"), 17)
    reader, known = ObjectReader(services(None)), KnownLines[ClusterObject]()
    server.streamed = good + bookmark(22, END)
    await fetch_stream(server.url, reader=reader, known=known)
    reader.read(json.dumps(put(service("web"), ("spec", "ports"), 1)).encode())
    assert len(reader.problems) == 1
    await fetch_stream(server.url, reader=reader, known=known)
    assert not reader.problems


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        pytest.param(event_line("ADDED", service("web"), 5), "fell silent", id="no end"),
        pytest.param(bookmark(7, {}), "does not tell where", id="an ordinary bookmark"),
        pytest.param(bookmark(7, {"annotations": {"k8s.io/initial-events-end": 1}}), "does not tell where", id="odd"),
        pytest.param(bookmark(None, END), "does not tell where", id="no version"),
        pytest.param(b"<html>\n", "is garbled", id="no watch"),
    ],
)
async def test_what_is_no_streamed_list(server: MinimalApi, answer: bytes, sentence: str) -> None:
    server.streamed = answer
    with pytest.raises(UnreachableError, match=sentence):
        await fetch_stream(server.url, idle_timeout=0.2)


async def test_the_lab_streams_and_no_page_is_asked_for(lab: FakeApiServer) -> None:
    for number in range(130):
        lab.put(service(f"s{number}"))
    listing = await fetch_stream(lab.url)
    assert ports(listing) == {f"s{number}": 80 for number in range(130)}
    async with following(lab.url) as followed:
        await until(lambda: len(followed.state) == 130)
        lab.put(service("one-more"))
        await until(lambda: len(followed.state) == 131)
        assert followed.calls == 2
    assert {"watch" in request.query for request in lab.requests} == {True}
