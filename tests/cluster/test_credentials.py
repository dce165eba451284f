"""Credentials of every kind against a real HTTP server; and what is imported for them, in a process of its own."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.cluster.minimal_api import MinimalApi
from tests.cluster.requests import ask, ask_once, kubeconfig
from userproxy.cluster.api_errors import UnreachableError
from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.errors import UsageError


async def test_a_token(server: MinimalApi, tmp_path: Path) -> None:
    server.token = "secret"
    await ask_once(kubeconfig=kubeconfig(tmp_path, server.url, {"token": "secret"}))


async def test_a_token_file_beside_the_kubeconfig(server: MinimalApi, tmp_path: Path) -> None:
    server.token = "secret"
    (tmp_path / "token").write_text("secret\n")
    await ask_once(kubeconfig=kubeconfig(tmp_path, server.url, {"tokenFile": "token"}))


async def test_an_exec_plugin(server: MinimalApi, tmp_path: Path) -> None:
    server.token = "secret"
    version = "client.authentication.k8s.io/v1"
    answer = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": {"token": "secret"}})
    plugin = {"command": sys.executable, "apiVersion": version, "args": ["-c", f"print({answer!r})"]}
    await ask_once(kubeconfig=kubeconfig(tmp_path, server.url, {"exec": plugin}))


async def test_another_context_and_another_server(server: MinimalApi, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://192.0.2.2", {"token": "any"})
    await ask_once(kubeconfig=path, context="there", master=server.url)
    await ask_once(kubeconfig=path, master=server.url)
    assert [header for _, _, header in server.requests] == ["Bearer any", "Bearer any"]


async def test_a_client_certificate_and_a_private_authority(
    tls_server: MinimalApi, authority: trustme.CA, tmp_path: Path
) -> None:
    mine = authority.issue_cert("me@example.com")
    ca = base64.b64encode(authority.cert_pem.bytes()).decode()
    user = {
        "client-certificate-data": base64.b64encode(mine.cert_chain_pems[0].bytes()).decode(),
        "client-key-data": base64.b64encode(mine.private_key_pem.bytes()).decode(),
    }
    await ask_once(kubeconfig=kubeconfig(tmp_path, tls_server.url, user, **{"certificate-authority-data": ca}))


async def test_verification_can_be_skipped_and_is_not_by_default(tls_server: MinimalApi, tmp_path: Path) -> None:
    await ask_once(kubeconfig=kubeconfig(tmp_path, tls_server.url, {}, **{"insecure-skip-tls-verify": True}))
    with pytest.raises(UnreachableError, match=r"TLS fails: .*certificate verify failed"):
        await ask_once(kubeconfig=kubeconfig(tmp_path, tls_server.url, {}))


async def test_in_a_pod(server: MinimalApi, authority: trustme.CA, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "token").write_text("old\n")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    client = await open_client(ApiAccess(service_account=tmp_path))
    assert client.server == "https://192.0.2.1:443"
    await client.close()
    server.token = "old"
    client = await open_client(ApiAccess(service_account=tmp_path, master=server.url))
    await ask(client)
    server.token = "new"
    (tmp_path / "token").write_text("new\n")
    await ask(client)
    await client.close()
    assert [header for _, _, header in server.requests] == ["Bearer old", "Bearer old", "Bearer new"]


async def test_somebody_else_is_impersonated(server: MinimalApi, tmp_path: Path) -> None:
    """As kubectl and client-go do it: a kubeconfig of an admin may lower itself to what a proxy may do."""
    user = {
        "token": "secret",
        "as": "system:kube-proxy",
        "as-uid": "4711",
        "as-groups": ["system:node-proxier", "größer"],
        "as-user-extra": {"example.com/scopes": ["a", "b"]},
    }
    await ask_once(kubeconfig=kubeconfig(tmp_path, server.url, user))
    asked = [(name, text) for name, text in server.headers if name.startswith("Impersonate-")]
    assert asked == [
        ("Impersonate-User", "system:kube-proxy"),
        ("Impersonate-Uid", "4711"),
        ("Impersonate-Group", "system:node-proxier"),
        ("Impersonate-Group", "größer"),
        ("Impersonate-Extra-example.com%2Fscopes", "a"),
        ("Impersonate-Extra-example.com%2Fscopes", "b"),
    ]


async def test_nothing_says_where_the_server_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --kubeconfig or --master"):
        await open_client(ApiAccess(service_account=tmp_path))
    with pytest.raises(UsageError, match=r"--master: .* is not a URL"):
        await open_client(ApiAccess(service_account=tmp_path, master="10.0.0.1"))


def seen_after(program: str) -> Any:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_client_works_without_its_models_and_apis() -> None:
    program = """
import json, sys
from userproxy.cluster.credentials import import_client
import_client()
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.client.rest import RESTClientObject
from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader
from kubernetes_asyncio.config.kube_config import KubeConfigLoader
generated = [name for name in sys.modules if name.startswith(("kubernetes_asyncio.client.models.",
                                                              "kubernetes_asyncio.client.api."))]
print(json.dumps([Configuration(host='http://a').host, len(generated), type(sys.meta_path[0]).__name__]))
"""
    host, generated, first_finder = seen_after(program)
    assert host == "http://a"
    assert generated == 0
    assert first_finder != "_Finder"


def test_the_real_modules_can_be_imported_afterwards() -> None:
    program = """
import json
from userproxy.cluster.credentials import import_client
import_client()
from kubernetes_asyncio.client.models.v1_object_meta import V1ObjectMeta
print(json.dumps(V1ObjectMeta(name="a").name))
"""
    assert seen_after(program) == "a"


def test_a_client_that_is_there_already_stays_whole() -> None:
    program = """
import json
import kubernetes_asyncio.client
from userproxy.cluster.credentials import import_client
import_client()
print(json.dumps(kubernetes_asyncio.client.V1ObjectMeta(name="a").name))
"""
    assert seen_after(program) == "a"
