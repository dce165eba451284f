"""What is wrong with a kubeconfig is one sentence, and what is right is found in it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
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
