"""The API server, asked over real connections."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor.conftest import only, results
from tests.lab.apiserver import FakeApiServer
from userproxy.config import Settings
from userproxy.doctor.api import api
from userproxy.doctor.findings import Outcome, Result


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        running.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}})
        yield running


def asked(server: FakeApiServer, name: str = "node-1") -> list[Outcome]:
    return list(api(Settings(master=server.url, hostname_override=name)))


def test_a_server_that_permits_all(server: FakeApiServer) -> None:
    outcomes = asked(server)
    assert results(outcomes) == [Result.OK] * 7
    assert outcomes[0].text.startswith(f"{server.url} answers after ")
    assert outcomes[2].text == "list and watch services is permitted"
    assert outcomes[-1].text == "our Node node-1 is there"


@pytest.mark.parametrize(
    ("resource", "result", "rule"),
    [
        ("services", Result.FAIL, 'apiGroups: [""], resources: ["services"], verbs: ["list", "watch"]'),
        ("endpointslices", Result.FAIL, 'apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"]'),
        ("nodes", Result.WARN, 'apiGroups: [""], resources: ["nodes"]'),
        ("events", Result.WARN, 'apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create", "patch"]'),
    ],
)
def test_what_is_forbidden_is_named_with_the_rule_that_allows_it(
    server: FakeApiServer, resource: str, result: Result, rule: str
) -> None:
    server.forbid(resource)
    outcome = only(asked(server), result)
    assert f"{resource}" in outcome.text
    assert " is forbidden, and without that " in outcome.text
    assert rule in outcome.advice


@pytest.mark.parametrize(
    ("seconds", "result", "text"),
    [
        (1.0, Result.OK, "agree"),
        (-30.0, Result.WARN, "ahead of"),
        (40.0, Result.WARN, "behind"),
        (900.0, Result.FAIL, "9"),
    ],
)
def test_clocks_that_differ(server: FakeApiServer, seconds: float, result: Result, text: str) -> None:
    server.skew(seconds)
    outcome = asked(server)[1]
    assert outcome.result is result
    assert text in outcome.text


def test_a_node_that_is_not_there(server: FakeApiServer) -> None:
    outcome = only(asked(server, "node-2"), Result.WARN)
    assert outcome.text.startswith("there is no Node node-2")
    assert "--hostname-override" in outcome.advice


def test_a_server_that_is_away(server: FakeApiServer) -> None:
    server.stop()
    assert f"{server.url} cannot be reached" in only(asked(server), Result.FAIL).text


def test_a_server_that_does_not_know_us(tmp_path: Path) -> None:
    with FakeApiServer(tls=True) as server:
        kubeconfig = server.kubeconfig(tmp_path / "kubeconfig", "token")
        assert results(list(api(Settings(kubeconfig=kubeconfig))))[0] is Result.OK
        server.rotate_token()
        assert "(401)" in only(list(api(Settings(kubeconfig=kubeconfig))), Result.FAIL).text


def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path) -> None:
    outcome = only(list(api(Settings(kubeconfig=tmp_path / "nowhere"))), Result.FAIL)
    assert "no such file" in outcome.text


def test_no_server_is_needed_for_manifests_nor_looked_for_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "manifests" in only(list(api(Settings(manifests=(Path("/etc/services"),)))), Result.OK).text
    assert "not looked at" in only(list(api(Settings())), Result.OK).text


def test_in_a_pod_the_cluster_ip_is_no_address_to_begin_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    outcomes = list(api(Settings()))
    assert "10.96.0.1" in only(outcomes, Result.WARN).text
    assert "credentials" in only(outcomes, Result.FAIL).text, "this is no Pod"
