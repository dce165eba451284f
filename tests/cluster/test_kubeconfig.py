"""What is wrong with a kubeconfig is one sentence, and what is right is found in it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.kubeconfig import Kubeconfig, read_kubeconfig
from userproxy.errors import UsageError

GOOD: dict[str, Any] = {
    "current-context": "c",
    "clusters": [{"name": "k", "cluster": {"server": "http://h"}}],
    "users": [{"name": "u", "user": {}}],
    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
}


def _user(**user: object) -> dict[str, Any]:
    return {"users": [{"name": "u", "user": {name.replace("_", "-"): value for name, value in user.items()}}]}


def _cluster(**cluster: object) -> dict[str, Any]:
    return {"clusters": [{"name": "k", "cluster": {name.replace("_", "-"): value for name, value in cluster.items()}}]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"current-context": None}, "current-context: missing"),
        ({"current-context": "x"}, 'current-context: "x" is not among the contexts'),
        ({"contexts": [{"name": "c", "context": {"user": "u"}}]}, r"contexts\[c\].context.cluster: missing"),
        ({"clusters": []}, r'contexts\[c\].context.cluster: "k" is not among the clusters'),
        ({"clusters": 5}, "clusters: Expected `array"),
        ({"users": []}, r'contexts\[c\].context.user: "u" is not among the users'),
        (_cluster(), r"clusters\[k\].cluster.server: missing"),
        (_cluster(server="h:6443"), r'clusters\[k\].cluster.server: "h:6443" is not a URL'),
        (_cluster(server="https://h", certificate_authority="./no"), r"certificate-authority: \./no: no such file"),
        (_cluster(server="https://h", certificate_authority_data="?"), "certificate-authority-data: not base64"),
        (_cluster(server="https://h", certificate_authority_data="eHg="), "certificate-authority: not a certificate"),
        (_user(as_groups=["x"]), r"users\[u\].user.as: missing, and as-uid, as-groups"),
        (_user(**{"as": "a\nb"}), r"users\[u\].user.as: what stands in a header"),
        (_user(token=["x"]), r"users\[0\].user.token: Expected `str"),
        (_user(tokenFile="no.token"), r"users\[u\].user.tokenFile: no.token: no such file"),
        (_user(client_certificate_data="eHg="), r"users\[u\].user.client-key: missing"),
        (_user(exec={"command": "/no/plugin", "apiVersion": "v1"}), "user.exec.command: /no/plugin: no such file"),
        (_user(exec={"command": "false", "apiVersion": "v1"}), "exec: process returned 1"),
    ],
)
async def test_a_wrong_kubeconfig_is_a_usage_error(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump({**GOOD, **change}))
    with pytest.raises(UsageError, match=complaint) as caught:
        await open_client(ApiAccess(kubeconfig=path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [(None, "no such file"), ("a: [", "not YAML"), ("- 1", "not a kubeconfig"), ("", "not a")],
)
async def test_no_kubeconfig_at_all(tmp_path: Path, text: str | None, complaint: str) -> None:
    if text is not None:
        (tmp_path / "config").write_text(text)
    with pytest.raises(UsageError, match=complaint):
        await open_client(ApiAccess(kubeconfig=tmp_path / "config"))


def write(folder: Path, document: object, name: str = "config") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document))
    return path


def test_what_is_found_in_a_kubeconfig(tmp_path: Path) -> None:
    assert read_kubeconfig(write(tmp_path, GOOD), None, None) == Kubeconfig(GOOD, "c", None, "")


def test_another_context_may_be_asked_for(tmp_path: Path) -> None:
    other = {"name": "other", "context": {"cluster": "k"}}
    path = write(tmp_path, {**GOOD, "current-context": None, "contexts": [*GOOD["contexts"], other]})
    assert read_kubeconfig(path, "other", None).context == "other"
    with pytest.raises(UsageError, match="current-context: missing, and --context names none"):
        read_kubeconfig(path, None, None)
    with pytest.raises(UsageError, match='--context: "third" is not among the contexts'):
        read_kubeconfig(path, "third", None)


def test_another_server_takes_the_place_of_the_contexts_own_only(tmp_path: Path) -> None:
    other = {"name": "other", "cluster": {"server": "http://other"}}
    path = write(tmp_path, {**GOOD, "clusters": [*GOOD["clusters"], other]})
    found = read_kubeconfig(path, None, "https://10.0.0.1")
    assert found.document["clusters"] == [{"name": "k", "cluster": {"server": "https://10.0.0.1"}}, other]
    with pytest.raises(UsageError, match=r'--master: "10\.0\.0\.1" is not a URL'):
        read_kubeconfig(path, None, "me:secret@10.0.0.1")


def test_a_server_may_be_named_by_master_alone(tmp_path: Path) -> None:
    found = read_kubeconfig(write(tmp_path, {**GOOD, **_cluster()}), None, "https://10.0.0.1")
    assert found.document["clusters"][0]["cluster"]["server"] == "https://10.0.0.1"


@pytest.mark.parametrize(
    ("user", "token_file", "plugin"),
    [
        ({"tokenFile": "token"}, "token", ""),
        ({"tokenFile": "token", "token": "x"}, None, ""),
        ({"tokenFile": "token", "token": ""}, "token", ""),
        ({"tokenFile": "token", "exec": {"command": "get-token", "apiVersion": "v1"}}, None, "get-token"),
        ({}, None, ""),
    ],
    ids=["file", "token before file", "empty token", "plugin before file", "nothing"],
)
def test_where_the_token_is(tmp_path: Path, user: dict[str, Any], token_file: str | None, plugin: str) -> None:
    (tmp_path / "token").write_text("x")
    found = read_kubeconfig(write(tmp_path, {**GOOD, "users": [{"name": "u", "user": user}]}), None, None)
    assert found.token_file == (tmp_path / token_file if token_file else None)
    assert found.plugin == plugin


def test_impersonation_becomes_headers_in_kubectls_order(tmp_path: Path) -> None:
    user = {
        "as": "proxy",
        "as-groups": ["a", "b"],
        "as-uid": "7",
        "as-user-extra": {"example.com/x y": ["1", "2"], "z": []},
    }
    found = read_kubeconfig(write(tmp_path, {**GOOD, "users": [{"name": "u", "user": user}]}), None, None)
    assert found.impersonation == (
        ("Impersonate-User", "proxy"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-example.com%2Fx%20y", "1"),
        ("Impersonate-Extra-example.com%2Fx%20y", "2"),
    )


@pytest.mark.parametrize("section", ["clusters", "users", "contexts"])
def test_a_name_that_is_there_twice(tmp_path: Path, section: str) -> None:
    path = write(tmp_path, {**GOOD, section: GOOD[section] * 2})
    with pytest.raises(UsageError, match=rf'{section}: ".*" is there 2 times'):
        read_kubeconfig(path, None, None)


def test_json_and_a_second_document(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GOOD))
    assert read_kubeconfig(path, None, None).document == GOOD
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(GOOD) + "---\n" + yaml.safe_dump(GOOD))
    with pytest.raises(UsageError, match=r"config: not YAML at line \d+, column \d+$"):
        read_kubeconfig(path, None, None)


@pytest.mark.parametrize("change", [{"users": None}, {"contexts": [{"name": "c"}]}, {"clusters": [{"name": "k"}]}])
def test_what_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"missing|is not among"):
        read_kubeconfig(write(tmp_path, {**GOOD, **change}), None, None)
