"""Lists as the initial events of a watch, and what is done where a server does not give them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.cluster.following import QUICK, Following, following, following_file, until
from tests.cluster.minimal_api import PATHS, MinimalApi, minimal_api
from tests.cluster.test_api_source import endpoint_slice, service
from tests.lab.apiserver import FakeApiServer
from userproxy.cluster.api_errors import RefusedError, UnreachableError
from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.listing import ANY_VERSION, Listing, fetch_streamed
from userproxy.cluster.objects.reader import ObjectReader
from userproxy.cluster.objects.resources import services
from userproxy.cluster.watch import Timing
from userproxy.cluster.watch_stream import WatchLimits
from userproxy.model import Service, ServiceName

SERVICES, SLICES, NODES = PATHS
END = {"annotations": {"k8s.io/initial-events-end": "true"}}


@pytest.fixture
def lab() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


@pytest_asyncio.fixture
async def minimal() -> AsyncIterator[MinimalApi]:
    async with minimal_api() as running:
        yield running


def line(change: str, document: dict[str, Any], version: int | None) -> bytes:
    metadata = {**document.get("metadata", {}), **({"resourceVersion": str(version)} if version else {})}
    return json.dumps({"type": change, "object": {**document, "metadata": metadata}}).encode() + b"\n"


def bookmark(version: int | None, metadata: dict[str, Any]) -> bytes:
    return line("BOOKMARK", {"kind": "Service", "apiVersion": "v1", "metadata": metadata}, version)


async def fetch(url: str, silence: float = 30.0) -> Listing:
    client = await open_client(ApiAccess(master=url))
    try:
        return await fetch_streamed(client, services(None), ObjectReader(services(None)), ANY_VERSION, silence)
    finally:
        await client.close()


def ports(listing: Listing) -> dict[str, int]:
    return {item.name: item.ports[0].port for r in listing.readings if isinstance(item := r.item, Service)}


async def test_objects_come_in_any_order_and_change_while_they_come(minimal: MinimalApi) -> None:
    minimal.streamed = (
        line("ADDED", service("web"), 17)
        + line("ADDED", service("old"), 5)
        + line("ADDED", service("short"), 9)
        + line("MODIFIED", service("web", 81), 20)
        + line("DELETED", service("short"), 21)
        + bookmark(22, END)
        + line("ADDED", service("later"), 23)
    )
    listing = await fetch(minimal.url)
    assert ports(listing) == {"web": 81, "old": 80}
    assert listing.version == "22"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        pytest.param(line("ADDED", service("web"), 5), "fell silent", id="no end"),
        pytest.param(bookmark(7, {}), "does not tell where", id="an ordinary bookmark"),
        pytest.param(bookmark(7, {"annotations": {"k8s.io/initial-events-end": 1}}), "does not tell where", id="odd"),
        pytest.param(bookmark(None, END), "does not tell where", id="no version"),
        pytest.param(b"<html>\n", "is garbled", id="no watch"),
    ],
)
async def test_what_is_no_streamed_list(minimal: MinimalApi, answer: bytes, sentence: str) -> None:
    minimal.streamed = answer
    with pytest.raises(UnreachableError, match=sentence):
        await fetch(minimal.url, silence=0.2)


async def test_a_server_that_only_watches_is_listed_in_pages(minimal: MinimalApi) -> None:
    minimal.put(service("web"))
    minimal.put(endpoint_slice("web-1", "web", "10.244.0.1"))
    minimal.streamed = line("ADDED", service("half"), 5)
    timing = Timing(QUICK.backoff, WatchLimits(silence=30.0, initial_silence=0.1))
    async with following(minimal.url, timing=timing) as followed:
        await until(lambda: followed.names() == ["shop/web"])
    assert followed.touched == [ServiceName("shop", "web")]
    assert minimal.counts["stream", SERVICES] == minimal.counts["list", SERVICES] == 1


async def test_the_lab_streams_and_no_page_is_asked_for(lab: FakeApiServer) -> None:
    for number in range(130):
        lab.put(service(f"s{number}"))
    listing = await fetch(lab.url)
    assert ports(listing) == {f"s{number}": 80 for number in range(130)}
    async with following(lab.url) as followed:
        await until(lambda: len(followed.state) == 130)
        lab.put(service("one-more"))
        await until(lambda: len(followed.state) == 131)
        assert followed.calls == 2
    assert {"watch" in request.query for request in lab.requests} == {True}


@pytest.mark.parametrize("status", [400, 403, 404, 422])
async def test_a_server_that_refuses_to_stream_is_not_asked_again(lab: FakeApiServer, status: int) -> None:
    lab.put(service("web"))
    lab.streaming_lists(status)
    with pytest.raises(RefusedError):
        await fetch(lab.url)
    async with following(lab.url) as followed:
        await until(lambda: followed.names() == ["shop/web"])
        await until(lambda: lab.streams("services") == 1)
        before = asked_to_stream(lab)
        lab.delete("Service", "shop", "web")
        lab.compact()
        lab.cut_streams()
        lab.put(service("new"))
        await until(lambda: followed.names() == ["shop/new"])
    assert asked_to_stream(lab) == before


async def test_a_server_with_too_much_to_do_is_asked_again(lab: FakeApiServer) -> None:
    lab.put(service("web"))
    lab.streaming_lists(429)
    async with following(lab.url) as followed:
        await until(lambda: asked_to_stream(lab) > 6)
        assert followed.calls == 0
        lab.streaming_lists(200)
        await until(lambda: followed.names() == ["shop/web"])
    assert {"watch" in request.query for request in lab.requests} == {True}


@pytest.mark.parametrize("status", [403, 500, 503])
async def test_where_streaming_fails_a_list_follows_at_once(lab: FakeApiServer, status: int) -> None:
    """Within a second, and with the pauses that a real proxy makes after a failure."""
    lab.put(service("web"))
    lab.streaming_lists(status)
    async with following(lab.url, timing=Timing()) as followed:
        await until(lambda: followed.names() == ["shop/web"], 1.0)


async def test_an_etcd_that_does_not_tell_its_progress(lab: FakeApiServer) -> None:
    """The server accepts to stream a list, and sends an error of code 500: Debian's etcd 3.4 behind Kubernetes 1.36."""
    lab.put(service("web"))
    lab.progress(told=False)
    with pytest.raises(RefusedError) as caught:
        await fetch(lab.url)
    assert caught.value.status == 500
    with capture_logs() as lines:
        async with following(lab.url, timing=Timing()) as followed:
            await until(lambda: followed.names() == ["shop/web"], 1.0)
            lab.put(service("more"))
            await until(lambda: followed.names() == ["shop/more", "shop/web"])
    assert not [line for line in lines if line["log_level"] == "warning"]
    assert asked_to_stream(lab) <= 4


async def test_a_refusal_to_stream_counts_for_a_while(lab: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userproxy.cluster.watch._STREAM_AGAIN", 0.05)
    lab.put(service("web"))
    lab.streaming_lists(403)
    async with following(lab.url) as followed:
        await until(lambda: followed.names() == ["shop/web"] and lab.streams("services") == 1)
        lab.streaming_lists(200)
        before = asked_to_stream(lab)
        await asyncio.sleep(0.06)  # the time for which the refusal counts
        lab.compact()
        lab.cut_streams()
        lab.put(service("new"))
        await until(lambda: followed.names() == ["shop/new", "shop/web"])
    assert asked_to_stream(lab) > before


@pytest.mark.parametrize("at", ["line", "utf8", "chunk", "between", "end"])
async def test_a_list_that_is_cut_shows_nothing_of_it(lab: FakeApiServer, at: Any, tmp_path: Path) -> None:
    for number in range(20):
        lab.put(service(f"s{number}"))
    lab.slow_streams(100, 0.02)
    async with following_file(lab.kubeconfig(tmp_path / "kubeconfig")) as followed:
        await until(lambda: lab.streams("services") == 1)
        assert not held(followed)
        lab.delete("Service", "shop", "s0")
        lab.cut_streams(at, "services")
        lab.slow_streams(0)
        await until(lambda: len(followed.state) == 19)
        assert len(followed.touched) == 19


async def test_what_has_vanished_meanwhile_goes_when_all_is_told(lab: FakeApiServer) -> None:
    lab.put(service("stays"), service("goes"))
    async with following(lab.url) as followed:
        await until(lambda: len(followed.state) == 2 and lab.streams("services") == 1)
        followed.touched.clear()
        lab.hold("services")
        lab.delete("Service", "shop", "goes")
        lab.put(service("comes"))
        lab.compact()
        lab.cut_streams()
        lab.release()
        await until(lambda: followed.names() == ["shop/comes", "shop/stays"])
        assert sorted(map(str, followed.touched)) == ["shop/comes", "shop/goes"]
    assert not [request for request in lab.requests if request.query.get("limit") == "500"]


def asked_to_stream(lab: FakeApiServer) -> int:
    return sum("sendInitialEvents" in request.query for request in lab.requests)


def held(followed: Following) -> int:
    return sum(1 for _ in followed.store.names(followed.changes.family))
