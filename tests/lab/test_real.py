"""The fake API server beside a real one: the same questions, the same answers as far as userproxy reads them.

Needs kube-apiserver and etcd, where envtest's variables TEST_ASSET_KUBE_APISERVER and TEST_ASSET_ETCD name them.
"""

import json
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest

from tests.lab.apiserver import FakeApiServer, RealApiServer, real_binaries
from tests.lab.test_event_rules import BAD, EVENT

SERVICES = "/api/v1/services"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
STREAMED = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
FUTURE = "999999999"
INTERNAL_NAMES = {"note": "message", "deprecatedCount": "count"}
"""How a real server's complaints call fields: as the core group does."""

Server = FakeApiServer | RealApiServer


@pytest.fixture(scope="module")
def real() -> Iterator[RealApiServer]:
    binaries = real_binaries()
    if binaries is None:
        pytest.skip("TEST_ASSET_KUBE_APISERVER and TEST_ASSET_ETCD name no binaries")
    with RealApiServer(*binaries) as running:
        yield running


@pytest.fixture
def both(real: RealApiServer) -> Iterator[tuple[Server, Server]]:
    with FakeApiServer() as fake:
        yield fake, real


def ask(server: Server, path: str, body: object = None, **query: str) -> dict[str, Any]:
    """An answer, or the first event of a watch; an error is its Status."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.token}"}
    request = urllib.request.Request(f"{server.url}{path}?{urlencode(query)}", data, headers)
    context = ssl._create_unverified_context() if server.url.startswith("https") else None
    try:
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            found = json.loads(answer.readline() if "watch" in query else answer.read())
    except HTTPError as error:
        with error:
            found = json.loads(error.read())
    assert isinstance(found, dict)
    return found


def version(server: Server) -> str:
    return str(ask(server, SERVICES)["metadata"]["resourceVersion"])


def said(answer: dict[str, Any]) -> tuple[Any, ...]:
    """What userproxy goes by: the type of an event, code and reason, and causes."""
    status = answer.get("object", answer)
    causes = [cause.get("reason") for cause in (status.get("details") or {}).get("causes") or ()]
    return answer.get("type"), status.get("code"), status.get("reason"), causes


@pytest.mark.parametrize(
    "query",
    [
        {"resourceVersion": FUTURE, "resourceVersionMatch": "NotOlderThan"},
        {"watch": "true", **STREAMED, "resourceVersion": FUTURE},
        {"watch": "true", "sendInitialEvents": "true"},
        {"watch": "true", "resourceVersionMatch": "NotOlderThan"},
    ],
    ids=["a list of a version to come", "such a stream", "a stream without a match", "a match without a stream"],
)
def test_what_is_refused(both: tuple[Server, Server], query: dict[str, str]) -> None:
    fake, real = both
    assert said(ask(fake, SERVICES, **query)) == said(ask(real, SERVICES, **query))


def test_a_watch_from_before_a_compaction_or_a_restart(both: tuple[Server, Server]) -> None:
    answers = []
    for server in both:
        versions = [version(server)]
        for number in range(5):
            ask(
                server,
                EVENTS,
                {**EVENT, "metadata": {"name": f"e{number}"}, "regarding": {"kind": "Node", "name": "n"}},
            )
        server.compact()
        versions.append(version(server))
        server.stop()
        server.start()
        answers.append([said(ask(server, SERVICES, watch="true", resourceVersion=each)) for each in versions])
    assert answers[0] == answers[1] == [("ERROR", 410, "Expired", [])] * 2


def test_good_events_are_taken(both: tuple[Server, Server]) -> None:
    for server in both:
        metadata = {"name": "web.17f0a", "namespace": "default"}
        regarding = {**EVENT["regarding"], "namespace": "default", "uid": "0d6e5f6a"}
        made = ask(server, EVENTS, {**EVENT, "metadata": metadata, "regarding": regarding})
        assert (made["kind"], made["note"]) == ("Event", EVENT["note"]), made


@pytest.mark.parametrize(("change", "field"), BAD)
def test_bad_events_are_refused_with_the_field(both: tuple[Server, Server], change: dict[str, Any], field: str) -> None:
    text = json.dumps(EVENT | change).replace("shop", "kube-public")
    for server in both:
        made = ask(server, EVENTS.replace("default", "kube-public"), json.loads(text))
        assert made["code"] in (400, 422), made
        fields = {cause["field"] for cause in made["details"].get("causes", ())} if made["code"] == 422 else {field}
        assert fields & {field, INTERNAL_NAMES.get(field)}, made
