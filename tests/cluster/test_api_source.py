"""The source against a server that speaks real HTTP: in the end the Store holds what the server holds."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.cluster.examples import NODE, a_service, put, without
from tests.cluster.following import QUICK, Following, following, until
from tests.cluster.minimal_api import PATHS, MinimalApi, minimal_api
from tests.lab.apiserver import FakeApiServer
from userproxy.cluster.watch import Timing
from userproxy.cluster.watch_stream import WatchLimits
from userproxy.model import ServiceName

SERVICES, SLICES, NODES = PATHS


def service(name: str, port: int = 80) -> dict[str, Any]:
    document: dict[str, Any] = put(a_service(name, port=port), ("metadata", "namespace"), "shop")
    return document


def endpoint_slice(name: str, of: str, *addresses: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def addresses(followed: Following, name: str) -> list[str]:
    state = followed.state.get(ServiceName("shop", name))
    return sorted(e.address for part in (state.slices if state else ()) for e in part.endpoints)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[MinimalApi]:
    async with minimal_api() as running:
        yield running


async def test_what_is_there_and_what_changes(server: MinimalApi) -> None:
    server.put(service("web"))
    server.put(endpoint_slice("web-1", "web", "10.244.0.1"))
    server.put(NODE)
    async with following(server.url) as followed:
        await until(lambda: addresses(followed, "web") == ["10.244.0.1"])
        await until(lambda: "worker-1" in followed.store.nodes)
        server.put(endpoint_slice("web-1", "web", "10.244.0.2"))
        await until(lambda: addresses(followed, "web") == ["10.244.0.2"])
        server.put(endpoint_slice("early-1", "early", "10.244.0.3"))
        server.put(service("early"))
        await until(lambda: addresses(followed, "early") == ["10.244.0.3"])
        server.delete("Service", "shop", "web")
        await until(lambda: followed.names() == ["shop/early"])
        server.delete("Node", "", "worker-1")
        await until(lambda: not followed.store.nodes)


async def test_nothing_is_told_before_both_lists_are_there(server: MinimalApi) -> None:
    server.put(service("web"))
    server.refuse(SLICES, 500)
    async with following(server.url) as followed:
        await until(lambda: server.counts["watch", SERVICES] > 0 and server.counts["list", SLICES] > 2)
        assert followed.calls == 0
        server.accept()
        await until(lambda: followed.names() == ["shop/web"])


async def test_an_empty_cluster_is_told_too(server: MinimalApi) -> None:
    async with following(server.url) as followed:
        await until(lambda: followed.calls == 1)


@pytest.mark.parametrize(
    ("proxy_name", "label"),
    [(None, "!service.kubernetes.io/service-proxy-name"), ("mine", "service.kubernetes.io/service-proxy-name=mine")],
    ids=["default", "named"],
)
async def test_the_selectors_are_kube_proxys(server: MinimalApi, proxy_name: str | None, label: str) -> None:
    async with following(server.url, proxy_name=proxy_name):
        await until(lambda: all(server.counts["watch", path] for path in PATHS))
    for path, query, _ in server.requests:
        wanted = {
            SERVICES: (label, "spec.clusterIP!=None"),
            SLICES: ("!service.kubernetes.io/headless", None),
            NODES: (None, "metadata.name=worker-1"),
        }[path]
        assert (query.get("labelSelector"), query.get("fieldSelector")) == wanted


async def test_a_dead_server_costs_nothing_and_the_watch_goes_on_where_it_was(server: MinimalApi) -> None:
    server.put(service("web"))
    async with following(server.url) as followed:
        await until(lambda: followed.names() == ["shop/web"] and server.counts["watch", SERVICES] == 1)
        with capture_logs() as lines:
            await server.stop()
            # Long enough for several tries of each of the three.
            await asyncio.sleep(0.2)
            assert followed.names() == ["shop/web"]
            server.put(service("new"))
            await server.start()
            await until(lambda: followed.names() == ["shop/new", "shop/web"])
        assert server.counts["list", SERVICES] == 1
        assert followed.touched == [ServiceName("shop", "web"), ServiceName("shop", "new")]
    warnings = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert len(warnings) == len(set(warnings)) <= 2
    assert f"The API server {server.url} cannot be reached: " in warnings[-1]


async def test_an_expired_watch_lists_again_and_touches_only_what_changed(server: MinimalApi) -> None:
    server.put(service("web"))
    server.put(service("old"))
    async with following(server.url) as followed:
        await until(lambda: len(followed.state) == 2 and server.counts["watch", SERVICES] == 1)
        followed.touched.clear()
        server.refuse(SERVICES, 503)
        server.cut()
        server.delete("Service", "shop", "old")
        server.put(service("new"))
        server.expire()
        server.accept()
        await until(lambda: followed.names() == ["shop/new", "shop/web"])
        assert sorted(map(str, followed.touched)) == ["shop/new", "shop/old"]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_refused_watch_is_tried_again_without_a_list(server: MinimalApi, status: int) -> None:
    async with following(server.url) as followed:
        await until(lambda: followed.calls == 1 and server.counts["watch", SERVICES] == 1)
        server.refuse(SERVICES, status)
        server.cut()
        tried = ("watch", "confirm")
        await until(lambda: sum(server.counts[verb, SERVICES] for verb in tried) > 4)
        server.put(service("web"))
        server.accept()
        await until(lambda: followed.names() == ["shop/web"])
        assert server.counts["list", SERVICES] == 1


async def test_what_is_forbidden_is_said_once_with_the_rule_that_is_missing(server: MinimalApi) -> None:
    server.refuse(SLICES, 403)
    with capture_logs() as lines:
        async with following(server.url) as followed:
            await until(lambda: server.counts["list", SLICES] > 3)
            server.accept()
            await until(lambda: followed.calls == 1)
    (warning,) = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert "forbids to list endpointslices (403)" in warning
    assert 'apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list", "watch"]' in warning


async def test_a_silent_watch_is_given_up(server: MinimalApi) -> None:
    timing = Timing(QUICK.backoff, WatchLimits(silence=0.1))
    async with following(server.url, timing=timing) as followed:
        await until(lambda: server.counts["watch", SERVICES] > 2)
        server.put(service("web"))
        await until(lambda: followed.names() == ["shop/web"])
        assert server.counts["list", SERVICES] == 1


async def test_bookmarks_move_the_version(server: MinimalApi) -> None:
    async with following(server.url):
        await until(lambda: server.counts["watch", SERVICES] == 1)
        for _ in range(5):
            server.bookmark()
        latest = str(server._version)
        await until(lambda: _watched_from(server) == latest)
        assert server.counts["list", SERVICES] == 1


def _watched_from(server: MinimalApi) -> str:
    """The version of the latest watch of Services; cuts the streams so that there is a later one."""
    server.cut()
    return [query["resourceVersion"] for path, query, _ in server.requests if path == SERVICES and "watch" in query][-1]


async def test_a_bad_object_keeps_its_last_good_version_and_is_told_once(server: MinimalApi) -> None:
    server.put(service("web"))
    with capture_logs() as lines:
        async with following(server.url) as followed:
            await until(lambda: followed.names() == ["shop/web"])
            for _ in range(3):
                server.put(put(service("web"), ("spec", "ports"), [{"port": 0}]))
            server.put(put(service("bad"), ("spec", "ports"), "none"))
            server.put(service("good"))
            await until(lambda: followed.names() == ["shop/good", "shop/web"])
            assert len(followed.source.problems) == 2
            server.refuse(SERVICES, 503)
            server.cut()
            server.expire()
            server.accept()
            await until(lambda: server.counts["list", SERVICES] > 1)
            server.put(service("bad"))
            await until(lambda: followed.names() == ["shop/bad", "shop/good", "shop/web"])
            server.delete("Service", "shop", "web")
            await until(lambda: "shop/web" not in followed.names())
            await until(lambda: not followed.source.problems)
    errors = [line["event"] for line in lines if line["log_level"] == "error"]
    assert len(errors) == 2
    assert all(error.startswith("API (Service shop/") for error in errors)
    assert "spec.ports[0].port: 0 is not a port number" in errors[0]


@pytest.mark.parametrize("seed", range(4))
async def test_random_histories_end_as_the_server_has_them(server: MinimalApi, seed: int) -> None:
    """Objects come, move and go, while streams are cut, repeated and forgotten."""
    random = Random(seed)
    server.cut_every, server.repeat = 37, True
    async with following(server.url) as followed:
        for step in range(150):
            _change(server, random)
            match random.randrange(20):
                case 0:
                    server.cut()
                case 1:
                    server.cut()
                    server.expire()
                case 2:
                    await until(lambda: followed.calls > 0)
                case _ if step % 3:
                    await asyncio.sleep(0)
        wanted = _wanted(server)
        await until(lambda: {str(n): addresses(followed, n.name) for n in followed.state} == wanted, 10.0)


def _change(server: MinimalApi, random: Random) -> None:
    name = f"s{random.randrange(8)}"
    part = endpoint_slice(f"part{random.randrange(8)}", name, f"10.244.0.{random.randrange(1, 250)}")
    document = random.choice([service(name, random.randrange(1, 99)), part])
    if random.random() < 0.3 and server._key(document) in server._objects:
        server.delete(*server._key(document))
    else:
        server.put(document)


def _wanted(server: MinimalApi) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for kind, namespace, name in server._objects:
        if kind == "Service":
            wanted[f"{namespace}/{name}"] = sorted(
                document["endpoints"][0]["addresses"][0]
                for document in server._objects.values()
                if document["kind"] == "EndpointSlice"
                and document["metadata"]["labels"]["kubernetes.io/service-name"] == name
            )
    return wanted


async def test_an_object_without_metadata_is_survived(server: MinimalApi) -> None:
    async with following(server.url) as followed:
        await until(lambda: followed.calls == 1)
        server._version += 1
        server._record("ADDED", without(service("web"), ("metadata",)))
        server._record("ADDED", {"kind": "Service", "metadata": 5})
        server.put(service("good"))
        await until(lambda: followed.names() == ["shop/good"])


async def test_after_a_restore_from_a_backup_nothing_is_hidden() -> None:
    """A watch from a version that the server has not reached again is accepted, and told nothing until then."""
    with FakeApiServer() as lab:
        for number in range(50):
            lab.put(service("web", 8000 + number))
        async with following(lab.url) as followed:
            await until(lambda: followed.names() == ["shop/web"] and _watches(lab))
            lab.stop()
            lab.restore(10)
            lab.delete("Service", "shop", "web")
            lab.put(service("new"))
            lab.start()
            await until(lambda: followed.names() == ["shop/new"])
            lab.put(service("newer"))
            await until(lambda: followed.names() == ["shop/new", "shop/newer"])


def _watches(lab: FakeApiServer) -> bool:
    """Whether Services are watched, and not only listed by a stream."""
    mine = [request.query for request in lab.requests if request.path == SERVICES]
    return any("watch" in query and "sendInitialEvents" not in query for query in mine)


async def test_a_slice_of_no_service_is_no_error(server: MinimalApi) -> None:
    """The API server asks for no such label, and other programs keep slices of their own."""
    server.put(service("web"))
    server.put(put(endpoint_slice("theirs", "web", "10.244.0.1"), ("metadata", "labels"), {}))
    server.put(endpoint_slice("ours", "web", "10.244.0.2"))
    with capture_logs() as lines:
        async with following(server.url) as followed:
            await until(lambda: addresses(followed, "web") == ["10.244.0.2"])
            server.put(put(endpoint_slice("ours", "web"), ("metadata", "labels"), None))
            await until(lambda: addresses(followed, "web") == [])
            assert not followed.source.problems
    assert not [line for line in lines if line["log_level"] in {"warning", "error"}]
