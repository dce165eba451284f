"""The source against a server that speaks real HTTP: in the end the Store holds what the server holds."""

import asyncio
from random import Random

import pytest
from structlog.testing import capture_logs

from tests.cluster.examples import NODE, endpoint_slice, put, service, without
from tests.cluster.following import addresses, following, until
from tests.cluster.minimal_api import PATHS, MinimalApi
from userproxy.cluster.store import Store

SERVICES, SLICES, NODES = PATHS


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


async def test_our_node_is_told_of_although_a_sync_has_taken_it_before(
    server: MinimalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its coming to the Store and our being told: then there is no change left, and health waits for it."""
    server.refuse(NODES, 500)
    async with following(server.url) as followed:
        await until(lambda: followed.calls == 1)
        monkeypatch.setattr(Store, "may_have_changes", False)
        server.put(NODE)
        server.accept()
        await until(lambda: followed.calls > 1)
        assert "worker-1" in followed.store.nodes


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
