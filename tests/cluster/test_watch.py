"""One resource followed for ever: what makes it list again, and how long it pauses."""

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from examples.benchmarks.control_plane import cluster
from examples.benchmarks.control_server import serving
from tests.cluster.examples import endpoint_slice, event_line, service
from tests.cluster.following import QUICK, Following, following, following_file, until
from tests.cluster.minimal_api import PATHS, MinimalApi
from tests.cluster.requests import fetch_stream
from tests.lab.apiserver import FakeApiServer
from tests.lab.apiserver.rest import Recorded
from tests.turns import watched_turns
from userproxy.cluster.api_errors import RefusedError
from userproxy.cluster.backoff import BackoffFigures
from userproxy.cluster.watch import Timing
from userproxy.cluster.watch_stream import WatchLimits
from userproxy.model import ServiceName

SERVICES, SLICES, NODES = PATHS
MANY = 10_000
TURN = 0.012
"""Many slices, and a quarter of what it takes to compare as many Services and slices at once: seconds."""


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


def _forget_all(server: MinimalApi) -> None:
    """Lists are answered, and no watch from the version of a list is."""
    server._oldest = 10**9


def _refuse_all(server: MinimalApi) -> None:
    server.refuse(SERVICES, 410)


@pytest.mark.parametrize("forget", [_refuse_all, _forget_all], ids=["lists", "watches"])
async def test_a_server_that_knows_no_version_is_told_of_once_and_until_it_does(
    server: MinimalApi, forget: Callable[[MinimalApi], None]
) -> None:
    forget(server)
    with capture_logs() as lines:
        async with following(server.url) as followed:
            await until(lambda: _reason(followed) != "")
            reason = _reason(followed)
            tried = len(server.requests)
            await until(lambda: len(server.requests) > tried + 9)
            assert [line["event"] for line in lines if line["log_level"] == "warning"].count(reason) == 1
            server.accept()
            server._oldest = 0
            await until(lambda: _reason(followed) == "")
            server.put(service("web"))
            await until(lambda: followed.names() == ["shop/web"])
    assert server.url in reason
    assert "version of services" in reason
    assert "410" in reason
    assert "5 times" in reason


async def test_a_server_that_knows_its_versions_after_a_few_tries_is_not_told_of(lab: FakeApiServer) -> None:
    """Each try asks for a stream, for pages of a version, and for pages of the latest."""
    lab.put(service("web"))
    lab.fail_next(3 * 4, 410, resource="services")
    with capture_logs() as lines:
        async with following(lab.url) as followed:
            await until(lambda: followed.names() == ["shop/web"])
            reflector = followed.source._reflectors[0]
            await until(lambda: reflector._expired == 0)  # a watch has lasted: what comes counts from one
            lab.fail_next(3 * 4, 410, resource="services")
            lab.compact()
            lab.cut_streams()
            lab.put(service("new"))
            await until(lambda: followed.names() == ["shop/new", "shop/web"])
    assert not [line for line in lines if "410" in line["event"]]


def _reason(followed: Following) -> str:
    """What is wrong with Services now."""
    return next(report.reason for report in followed.source.watches() if report.resource == "services")


async def test_a_silent_watch_is_given_up(server: MinimalApi) -> None:
    timing = Timing(QUICK.backoff, WatchLimits(idle_timeout=0.1))
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


async def test_a_server_that_only_watches_is_listed_in_pages(server: MinimalApi) -> None:
    server.put(service("web"))
    server.put(endpoint_slice("web-1", "web", "10.244.0.1"))
    server.streamed = event_line("ADDED", service("half"), 5)
    timing = Timing(QUICK.backoff, WatchLimits(idle_timeout=30.0, initial_idle_timeout=0.1))
    async with following(server.url, timing=timing) as followed:
        await until(lambda: followed.names() == ["shop/web"])
    assert followed.touched == [ServiceName("shop", "web")]
    assert server.counts["stream", SERVICES] == server.counts["list", SERVICES] == 1


@pytest.mark.parametrize("status", [400, 403, 404, 422])
async def test_a_server_that_refuses_to_stream_is_not_asked_again(lab: FakeApiServer, status: int) -> None:
    lab.put(service("web"))
    lab.streaming_lists(status)
    with pytest.raises(RefusedError):
        await fetch_stream(lab.url)
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


@pytest.mark.parametrize("status", [403, 503])
async def test_what_refuses_pages_as_well_says_nothing_about_streams(lab: FakeApiServer, status: int) -> None:
    """An API server that starts forbids everything for a moment: it has not read its RBAC rules yet."""
    lab.put(service("web"))
    lab.fail_next(2, status, resource="services")
    async with following(lab.url) as followed:
        await until(lambda: followed.names() == ["shop/web"])
    lists = ["limit" in request.query for request in lab.requests if request.path == SERVICES and _lists(request)]
    assert lists == [False, True, False]


async def test_a_version_that_a_stream_has_not_reached_says_nothing_about_streams(lab: FakeApiServer) -> None:
    """The server accepts the stream, and says in it that the version is too large: a restore, or another replica."""
    for number in range(20):
        lab.put(service("web", 8000 + number))
    async with following(lab.url) as followed:
        await until(lambda: followed.names() == ["shop/web"] and _watches(lab))
        lab.stop()
        lab.restore(10)
        lab.put(service("new"))
        lab.start()
        await until(lambda: followed.names() == ["shop/new", "shop/web"])
        before = asked_to_stream(lab)
        lab.compact()
        lab.cut_streams()
        lab.put(service("newer"))
        await until(lambda: "shop/newer" in followed.names())
        assert asked_to_stream(lab) > before


def _lists(request: Recorded) -> bool:
    return "limit" in request.query or "sendInitialEvents" in request.query


async def test_after_a_failure_a_new_list_that_the_server_asks_for_does_not_wait(lab: FakeApiServer) -> None:
    """After each restart a server has forgotten all versions; pauses of up to a minute are for those that are away."""
    lab.put(service("web"))
    timing = Timing(BackoffFigures(first=0.01, factor=6000.0, longest=60.0))
    async with following(lab.url, timing=timing) as followed:
        await until(lambda: followed.names() == ["shop/web"] and lab.streams() == 3)
        lab.hold("services")
        lab.put(service("new"))
        lab.compact()
        lab.cut_streams("end")  # so soon that it counts as a failure
        lab.release()
        await until(lambda: followed.names() == ["shop/new", "shop/web"], 15.0)


async def test_a_server_that_starts_and_forbids_once_is_not_told_of(lab: FakeApiServer) -> None:
    """What it does not permit for longer is."""
    lab.put(service("web"))
    with capture_logs() as lines:
        async with following(lab.url) as followed:
            await until(lambda: followed.names() == ["shop/web"] and lab.streams() == 3)
            lab.fail_next(1, 403, resource="services")
            lab.cut_streams("end", "services")
            await until(lambda: lab.streams() == 3)
            lab.put(service("new"))
            await until(lambda: followed.names() == ["shop/new", "shop/web"])
            assert not [line for line in lines if "403" in line["event"]]
            lab.forbid("services")
            lab.cut_streams("end", "services")
            await until(lambda: any("403" in line["event"] for line in lines))


async def test_an_etcd_that_does_not_tell_its_progress(lab: FakeApiServer) -> None:
    """The server accepts to stream a list, and sends an error of code 500: Debian's etcd 3.4 behind Kubernetes 1.36."""
    lab.put(service("web"))
    lab.progress(told=False)
    with pytest.raises(RefusedError) as caught:
        await fetch_stream(lab.url)
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


async def test_a_re_list_is_compared_in_slices() -> None:
    with serving(cluster(MANY)) as server:
        async with following(server.url) as followed:
            await until(lambda: len(followed.state) == MANY and server.watches("endpointslices") > 0, 60)
            calls = followed.calls
            async with watched_turns() as turns:
                for plural in ("services", "endpointslices"):
                    watches = server.watches(plural)
                    server.expire(plural)
                    await until(lambda: server.watches(plural) > watches, 60)  # noqa: B023
            assert followed.calls == calls, "nothing has changed"
    assert turns.longest < TURN


async def test_nothing_is_collected_while_a_list_is_read_and_compared() -> None:
    def note(phase: str, _info: dict[str, int]) -> None:
        collections.append(phase)

    collections: list[str] = []
    threshold = gc.get_threshold()
    with serving(cluster(MANY // 10)) as server:
        async with following(server.url) as followed:
            await until(lambda: len(followed.state) == MANY // 10 and server.watches("endpointslices") > 0, 60)
            gc.freeze()
            gc.callbacks.append(note)
            gc.set_threshold(100)
            try:
                watches = server.watches("endpointslices")
                server.expire("endpointslices")
                collections.clear()
                await until(lambda: not gc.isenabled(), 60)
                await until(lambda: gc.isenabled(), 60)
            finally:
                gc.callbacks.remove(note)
                gc.set_threshold(*threshold)
                gc.unfreeze()
            await until(lambda: server.watches("endpointslices") > watches, 60)
    assert len(collections) < 20, "a thousand slices are a hundred times as many objects"


async def test_the_problem_of_an_object_that_is_listed_again_stays_and_that_of_one_that_is_gone_goes(
    server: MinimalApi,
) -> None:
    bad = service("bad") | {"spec": {"clusterIP": "10.96.0.1", "ports": []}}
    gone = service("gone") | {"spec": {"clusterIP": "10.96.0.2", "ports": []}}
    for item in (service("web"), bad, gone):
        server.put(item)
    async with following(server.url) as followed:
        await until(lambda: len(followed.source.problems) == 2)
        server.refuse(SERVICES, 503)
        server.cut()
        server.delete("Service", "shop", "gone")
        server.expire()
        server.accept()
        await until(lambda: len(followed.source.problems) == 1)
        assert "shop/bad" in followed.source.problems[0]
        assert followed.names() == ["shop/web"]
