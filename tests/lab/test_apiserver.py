"""The fake API server over real connections, as a client of a real one sees it."""

import http.client
import json
import select
import ssl
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
import yaml

from tests.lab.apiserver import ApiServer, FakeApiServer, HostedApiServer, endpointslice, node, service
from tests.lab.apiserver.faults import Cut
from tests.lab.test_event_rules import EVENT
from userproxy.demo.hosts import Host
from userproxy.demo.waiting import eventually

SERVICES = "/api/v1/services"


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


def ask(
    server: ApiServer, path: str, method: str = "GET", body: object = None, *, kind: str = "", **query: str
) -> dict[str, Any]:
    """The decoded answer; an error's Status just so."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": kind or "application/json"}
    request = urllib.request.Request(f"{server.url}{path}?{urlencode(query)}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            answer = json.loads(response.read())
    except HTTPError as error:
        with error:
            answer = json.loads(error.read()) | {"headers": dict(error.headers)}
    assert isinstance(answer, dict)
    return answer


class Watch:
    """A watch whose events are read one by one."""

    def __init__(self, server: ApiServer, path: str = SERVICES, **query: str) -> None:
        url = f"{server.url}{path}?{urlencode({'watch': 'true', **query})}"
        self.response = urllib.request.urlopen(url, timeout=5)

    def event(self) -> tuple[str, str]:
        """Type and name, or the Status code of an error."""
        event = json.loads(self.response.readline())
        body = event["object"]
        return event["type"], body["metadata"].get("name") or str(body.get("code", ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()


def names(answer: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in answer["items"]]


def test_a_list_has_one_revision_and_items_without_a_kind(server: FakeApiServer) -> None:
    server.put(service("web"), service("shop", namespace="a"), node("node-1"))
    answer = ask(server, SERVICES)
    assert (answer["kind"], answer["apiVersion"], names(answer)) == ("ServiceList", "v1", ["shop", "web"])
    assert answer["metadata"] == {"resourceVersion": "4"}
    assert "kind" not in answer["items"][0]
    metadata = answer["items"][1]["metadata"]
    assert metadata["uid"]
    assert metadata["resourceVersion"] == "2"
    assert names(ask(server, "/api/v1/namespaces/a/services")) == ["shop"]


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ({"labelSelector": "!app"}, ["bare"]),
        ({"labelSelector": "app"}, ["one", "two"]),
        ({"labelSelector": "app=1,tier"}, ["one"]),
        ({"labelSelector": "app!=1"}, ["bare", "two"]),
        ({"fieldSelector": "metadata.name=two"}, ["two"]),
        ({"fieldSelector": "spec.clusterIP!=None"}, ["bare", "one"]),
    ],
)
def test_selectors(server: FakeApiServer, selector: dict[str, str], found: list[str]) -> None:
    server.put(service("one", labels={"app": "1", "tier": ""}), service("two", labels={"app": "2"}, cluster_ip=""))
    server.put(service("bare"))
    assert names(ask(server, SERVICES, **selector)) == found


def test_an_unknown_field_selector_is_a_bad_request(server: FakeApiServer) -> None:
    assert ask(server, SERVICES, fieldSelector="spec.ports=1")["code"] == 400


def test_pages_show_one_revision_even_when_objects_change(server: FakeApiServer) -> None:
    server.put(service("x", namespace="a"), service("y", namespace="a-b"), service("z", namespace="a"))
    first = ask(server, SERVICES, limit="2")
    server.delete("Service", "a", "z")
    server.put(service("later", namespace="b"))
    second = ask(server, SERVICES, limit="2", **{"continue": first["metadata"]["continue"]})
    assert names(first) + names(second) == ["y", "x", "z"]
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


def test_a_compacted_continue_token_is_gone_but_offers_the_rest(server: FakeApiServer) -> None:
    server.put(*(service(f"web-{number}") for number in range(3)))
    token = ask(server, SERVICES, limit="1")["metadata"]["continue"]
    server.compact()
    gone = ask(server, SERVICES, limit="1", **{"continue": token})
    assert (gone["code"], gone["reason"]) == (410, "Expired")
    assert names(ask(server, SERVICES, **{"continue": gone["metadata"]["continue"]})) == ["web-1", "web-2"]


def test_a_watch_replays_history_and_then_follows(server: FakeApiServer) -> None:
    server.put(service("old"))
    start = ask(server, SERVICES)["metadata"]["resourceVersion"]
    server.put(service("web"))
    with Watch(server, resourceVersion=start) as watch:
        assert watch.event() == ("ADDED", "web")
        server.put(service("web", cluster_ip="10.96.0.11"))
        assert watch.event() == ("MODIFIED", "web")
        server.delete("Service", "default", "web")
        assert watch.event() == ("DELETED", "web")


def test_an_object_that_leaves_the_selection_is_deleted_for_its_watcher(server: FakeApiServer) -> None:
    server.put(service("web"))
    with Watch(server, labelSelector="!hidden") as watch:
        assert watch.event() == ("ADDED", "web")
        server.put(service("web", labels={"hidden": ""}))
        assert watch.event() == ("DELETED", "web")
        server.put(service("web"))
        assert watch.event() == ("ADDED", "web")


def test_streaming_lists_end_in_a_bookmark(server: FakeApiServer) -> None:
    server.put(service("web"))
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    with Watch(server, **query) as watch:
        assert watch.event() == ("ADDED", "web")
        mark = json.loads(watch.response.readline())
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert mark["object"]["metadata"]["resourceVersion"] == "2"
    server.streaming_lists(422)
    assert ask(server, SERVICES, watch="true", **query)["reason"] == "Invalid"


def test_a_watch_from_compacted_history_is_gone_either_way(server: FakeApiServer) -> None:
    server.put(service("web"))
    server.compact()
    with Watch(server, resourceVersion="2") as watch:
        assert watch.event() == ("ERROR", "410")
    server.gone_as("http")
    assert ask(server, SERVICES, watch="true", resourceVersion="2")["code"] == 410


def test_after_a_restart_every_watch_from_before_is_too_old(server: FakeApiServer) -> None:
    """A server's watch cache begins with what there is when it starts."""
    server.put(service("web"))
    newest = ask(server, SERVICES)["metadata"]["resourceVersion"]
    server.stop()
    server.start()
    with Watch(server, resourceVersion=newest) as watch:
        assert watch.event() == ("ERROR", "410")
    with Watch(server, resourceVersion=ask(server, SERVICES)["metadata"]["resourceVersion"]) as watch:
        server.put(service("late"))
        assert watch.event() == ("ADDED", "late")


def test_compaction_leaves_watches_under_way_alone(server: FakeApiServer) -> None:
    with Watch(server) as watch:
        server.put(service("before"))
        assert watch.event() == ("ADDED", "before")
        server.compact()
        server.put(service("after"))
        assert watch.event() == ("ADDED", "after")


def test_a_watch_ends_in_order_after_its_time(server: FakeApiServer) -> None:
    with Watch(server, timeoutSeconds="1") as watch:
        assert watch.response.read() == b""


def test_objects_over_rest(server: FakeApiServer) -> None:
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    good = {**EVENT, "metadata": {"name": "e"}, "note": "one", "series": None}
    made = ask(server, path, "POST", good)
    assert (made["kind"], made["apiVersion"]) == ("Event", "events.k8s.io/v1")
    assert ask(server, path, "POST", good)["reason"] == "AlreadyExists"
    assert ask(server, path, "POST", good | {"type": "Error"})["reason"] == "Invalid"
    patch = {"series": EVENT["series"]}
    patched = ask(server, f"{path}/e", "PATCH", patch, kind="application/merge-patch+json")
    assert (patched["note"], patched["series"]) == ("one", EVENT["series"])
    assert patched["metadata"]["uid"] == made["metadata"]["uid"]
    refused = ask(server, f"{path}/e", "PATCH", {"note": "two"}, kind="application/merge-patch+json")
    assert refused["reason"] == "Invalid"
    assert ask(server, f"{path}/e", "PUT", made)["reason"] == "Conflict"
    assert ask(server, f"{path}/e", "DELETE")["status"] == "Success"
    assert ask(server, f"{path}/e")["reason"] == "NotFound"


def test_errors_that_were_asked_for(server: FakeApiServer) -> None:
    server.fail_next(1, 429, retry_after=3, resource="services")
    server.forbid("endpointslices")
    refused = ask(server, SERVICES)
    assert (refused["code"], refused["headers"]["Retry-After"], refused["details"]["retryAfterSeconds"]) == (
        429,
        "3",
        3,
    )
    assert "items" in ask(server, SERVICES)
    denied = ask(server, "/apis/discovery.k8s.io/v1/endpointslices")
    assert (denied["code"], denied["reason"]) == (403, "Forbidden")
    assert 'cannot list resource "endpointslices" in API group "discovery.k8s.io"' in denied["message"]
    assert [request.path for request in server.requests][:2] == [SERVICES, SERVICES]


@pytest.mark.parametrize("at", ["line", "utf8", "chunk", "between"])
@pytest.mark.parametrize("next_event", [False, True])
def test_a_cut_leaves_a_piece_and_no_last_chunk(server: FakeApiServer, at: Cut, next_event: bool) -> None:
    with Watch(server, resourceVersion="1") as watch:
        eventually(server.streams, what="the watch to be open")
        server.cut_streams(at, next_event=next_event)
        server.put(service("web"))
        raw = watch.response.fp.read()
    size, _, piece = raw.partition(b"\r\n")
    if at == "between":
        assert raw == b""
    elif at == "chunk":
        assert len(piece) < int(size, 16)
    else:
        assert len(piece.removesuffix(b"\r\n")) == int(size, 16)
        assert b"\n" not in piece.removesuffix(b"\r\n")
    if at == "utf8":
        with pytest.raises(UnicodeDecodeError):
            piece.decode()


def test_slow_duplicated_held_and_replayed_events(server: FakeApiServer) -> None:
    server.slow_streams(5)
    with Watch(server, resourceVersion="1") as watch:
        eventually(server.streams)
        server.duplicate(1)
        server.put(service("a"), endpointslice("a", ["10.244.1.2"]))
        assert [watch.event(), watch.event()] == [("ADDED", "a")] * 2
        server.hold("services")
        server.put(service("b"))
        server.replay(1)
        assert watch.event() == ("ADDED", "b")
        server.release()
        assert watch.event() == ("ADDED", "b")


def test_a_replay_of_what_is_still_to_be_sent_leaves_nothing_out(server: FakeApiServer) -> None:
    with Watch(server, resourceVersion="1") as watch:
        server.put(service("a"))
        assert watch.event() == ("ADDED", "a")
        server.hold("services")
        server.put(service("b"), service("c"))
        server.replay(1)
        assert [watch.event(), watch.event()] == [("ADDED", "b"), ("ADDED", "c")]
        server.release()
        assert [watch.event(), watch.event()] == [("ADDED", "b"), ("ADDED", "c")]


def test_a_stalled_stream_says_nothing_until_it_may(server: FakeApiServer) -> None:
    with Watch(server, resourceVersion="1") as watch:
        eventually(server.streams)
        server.stall(30.0)
        server.put(service("web"))
        with Watch(server) as other:
            assert other.event() == ("ADDED", "web")
            server.put(service("more"))
            assert other.event() == ("ADDED", "more")
        assert select.select([watch.response], [], [], 0.1)[0] == []
        server.resume()
        assert watch.event() == ("ADDED", "web")


def test_a_stall_that_is_over_aborts_the_stream(server: FakeApiServer) -> None:
    with Watch(server, resourceVersion="1") as watch:
        eventually(server.streams)
        server.stall(0.05)
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            watch.response.read()


def test_stopped_it_refuses_and_comes_back_with_its_objects(server: FakeApiServer) -> None:
    server.put(service("web"))
    with Watch(server) as watch:
        assert watch.event() == ("ADDED", "web")
        server.stop()
        with pytest.raises((OSError, http.client.IncompleteRead)):
            watch.response.read()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(server.url, timeout=5)
    server.start()
    assert names(ask(server, SERVICES)) == ["web"]


def test_an_answer_that_ends_half_way(server: FakeApiServer) -> None:
    server.truncate_next(1)
    with pytest.raises(http.client.IncompleteRead), urllib.request.urlopen(server.url + SERVICES) as response:
        response.read()


def test_who_may_come_in(tmp_path: Path) -> None:
    with FakeApiServer(tls=True) as server:
        assert server.files is not None
        trusting = ssl.create_default_context(cafile=server.files.ca)

        def code(token: str = "") -> int:
            request = urllib.request.Request(server.url + SERVICES, headers={"Authorization": f"Bearer {token}"})
            try:
                with urllib.request.urlopen(request, context=trusting, timeout=5) as response:
                    return int(response.status)
            except HTTPError as error:
                error.close()
                return error.code

        config = server.kubeconfig(tmp_path / "kubeconfig", "token-file", "here", current="elsewhere")
        old = server.token
        assert [code(), code("wrong"), code(old)] == [401, 401, 200]
        new = server.rotate_token()
        assert [code(old), code(new), (tmp_path / "kubeconfig.token").read_text()] == [401, 200, new]
        assert yaml.safe_load(config.read_text())["current-context"] == "elsewhere"
        trusting.load_cert_chain(server.files.client, server.files.client_key)
        assert code() == 200


def test_five_hundred_objects_take_milliseconds(server: FakeApiServer) -> None:
    objects = [service(f"web-{number}") for number in range(500)]
    before = time.process_time()
    server.put(*objects)
    assert time.process_time() - before < 0.5
    assert len(server.objects) == 500


def test_in_a_host_it_is_told_over_a_socket_even_while_stopped(root: None, tmp_path: Path) -> None:
    with Host("api") as host, HostedApiServer(host, tmp_path) as server:
        server.put(service("web"))
        server.stop()
        assert 6443 not in host.listening_ports()
        server.start()
        assert 6443 in host.listening_ports()
        assert list(server.objects) == [("Service", "default", "web")]
        assert server.requests == []
