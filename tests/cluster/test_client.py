"""Configuration, credentials and TLS of the API client, against a real HTTP server."""

import asyncio
import base64
import json
import os
import re
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme
import yaml
from structlog.testing import capture_logs

from tests.cluster.minimal_api import MinimalApi, minimal_api
from userproxy.cluster import client as client_module
from userproxy.cluster.api_errors import RefusedError, UnreachableError
from userproxy.cluster.client import ApiClient, open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.nodes import own_node_name, wait_for_addresses
from userproxy.cluster.objects.resources import services
from userproxy.cluster.store import Store
from userproxy.errors import UsageError
from userproxy.model import Node


@pytest_asyncio.fixture
async def server() -> AsyncIterator[MinimalApi]:
    async with minimal_api() as running:
        yield running


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest_asyncio.fixture
async def tls_server(authority: trustme.CA) -> AsyncIterator[MinimalApi]:
    """One that asks for a client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    async with minimal_api(context) as running:
        yield running


def kubeconfig(folder: Path, server: str, user: dict[str, Any], **cluster: object) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [
            {"name": "one", "cluster": {"server": server, **cluster}},
            {"name": "two", "cluster": {"server": "http://192.0.2.1"}},
        ],
        "users": [{"name": "me", "user": user}],
        "contexts": [
            {"name": "here", "context": {"cluster": "one", "user": "me"}},
            {"name": "there", "context": {"cluster": "two", "user": "me"}},
        ],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


async def ask(client: ApiClient) -> None:
    async with client.get(services(None), "list", {"limit": "1"}, 30.0) as chunks:
        async for _ in chunks:
            pass


async def ask_once(**access: Any) -> None:
    client = await open_client(ApiAccess(**access))
    try:
        await ask(client)
    finally:
        await client.close()


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


async def test_unknown_credentials_are_loaded_again_once(server: MinimalApi, tmp_path: Path) -> None:
    server.token = "secret"
    client = await open_client(ApiAccess(kubeconfig=kubeconfig(tmp_path, server.url, {"token": "wrong"})))
    with pytest.raises(RefusedError, match=r"does not know us \(401\), even with credentials loaded again"):
        await ask(client)
    assert len(server.requests) == 2
    kubeconfig(tmp_path, server.url, {"token": "secret"})
    await ask(client)
    (tmp_path / "kubeconfig").unlink()
    server.token = "other"
    with pytest.raises(RefusedError, match=r"\(401\), and --kubeconfig: .*no such file"):
        await ask(client)
    await client.close()


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


async def test_certificates_are_replaced_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gets certificates of another authority, and the files that we were given say so in their time."""
    monkeypatch.setattr("userproxy.cluster.client._LOOK_AGAIN", 0.0)
    first, second = trustme.CA(), trustme.CA()
    user = {"client-certificate": "./client.crt", "client-key": "./client.key"}
    write_pki(tmp_path, first)
    async with minimal_api(server_context(first)) as server:
        path = kubeconfig(tmp_path, server.url, user, **{"certificate-authority": "./ca.crt"})
        client = await open_client(ApiAccess(kubeconfig=path))
        await ask(client)
        await server.stop()
        await server.start(server_context(second))
        with pytest.raises(UnreachableError, match="TLS fails"):
            await ask(client)
        (tmp_path / "ca.crt").write_text("half-written")
        with capture_logs() as lines, pytest.raises(UnreachableError, match="TLS fails"):
            await ask(client)
        assert "cannot be used: the old ones stay" in lines[0]["event"]
        write_pki(tmp_path, second)
        await ask(client)
        await client.close()


async def test_what_a_replaced_kubeconfig_says_counts(
    server: MinimalApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("userproxy.cluster.client._LOOK_AGAIN", 0.0)
    client = await open_client(ApiAccess(kubeconfig=kubeconfig(tmp_path, "http://127.0.0.1:1", {"token": "a"})))
    with pytest.raises(UnreachableError):
        await ask(client)
    kubeconfig(tmp_path, server.url, {"token": "b"})
    await ask(client)
    await client.close()
    assert [header for _, _, header in server.requests] == ["Bearer b"]


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    """For a server that takes nobody without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def write_pki(folder: Path, authority: trustme.CA) -> None:
    mine = authority.issue_cert("me@example.com")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    mine.cert_chain_pems[0].write_to_path(folder / "client.crt")
    mine.private_key_pem.write_to_path(folder / "client.key")


TCP_REPAIR = 19
"""linux/tcp.h: a socket that is closed in repair mode tells nobody."""


@pytest.mark.skipif(os.geteuid() != 0, reason="repair mode needs CAP_NET_ADMIN")
async def test_a_server_whose_machine_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither FIN nor RST came; in a watch nobody has anything to send. Only TCP's own questions find out."""
    quick = [(level, option, 1) for level, option, _ in client_module._KEEP_ALIVE[:4]]
    monkeypatch.setattr("userproxy.cluster.client._KEEP_ALIVE", quick)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = await open_client(ApiAccess(master=f"http://127.0.0.1:{listening.getsockname()[1]}"))

        def serve() -> None:
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
            connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            connection.close()

        gone = asyncio.to_thread(serve)
        with pytest.raises(UnreachableError, match="the connection broke"):
            async with asyncio.timeout(10.0):
                await asyncio.gather(ask(client), gone)
        await client.close()


def test_the_figures_of_keep_alive_notice_within_45_seconds() -> None:
    figures = {option: value for _, option, value in client_module._KEEP_ALIVE}
    idle, pause, count = (figures[o] for o in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT))
    assert idle + pause * count <= 40  # and a moment for the kernel
    assert figures[socket.TCP_USER_TIMEOUT] <= 40_000


async def test_a_server_asks_for_time(server: MinimalApi) -> None:
    server.refuse("/api/v1/services", 429, Retry_After="7")
    with pytest.raises(RefusedError, match=r"too much to do \(429\)") as caught:
        await ask_once(master=server.url)
    assert caught.value.retry_after == 7.0


async def test_nobody_there() -> None:
    with pytest.raises(UnreachableError, match=r"http://127.0.0.1:1 cannot be reached: .*refused"):
        await ask_once(master="http://127.0.0.1:1")


async def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(UnreachableError, match=r"no\.such\.invalid cannot be resolved: .+") as caught:
        await ask_once(master="http://no.such.invalid:6443")
    assert "unknown error" not in str(caught.value)


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


async def test_nothing_says_where_the_server_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --kubeconfig or --master"):
        await open_client(ApiAccess(service_account=tmp_path))
    with pytest.raises(UsageError, match=r"--master: .* is not a URL"):
        await open_client(ApiAccess(service_account=tmp_path, master="10.0.0.1"))


@pytest.mark.parametrize(
    ("override", "host", "wanted"), [("", " Worker-1.Lan\n", "worker-1.lan"), (" Mine ", "host", "mine")]
)
def test_the_own_node_is_called(override: str, host: str, wanted: str) -> None:
    assert own_node_name(override, host) == wanted


@pytest.mark.parametrize("status", ["201 Created", "409 Conflict"])
async def test_writes_use_one_connection(tmp_path: Path, status: str) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 3000\r\n\r\n".encode())
                await writer.drain()
                await asyncio.sleep(0.001)  # the object comes after the head, as over any network
                writer.write(b"x" * 3000)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = await open_client(ApiAccess(service_account=tmp_path, master=f"http://127.0.0.1:{port}"))
    try:
        for _ in range(20):
            assert await client.post("/apis/events.k8s.io/v1/namespaces/shop/events", b"{}") == int(status[:3])
    finally:
        await client.close()
        server.close()
    assert connections == 1


@pytest.mark.parametrize("listed", [False, True])
async def test_serving_without_a_node(listed: bool) -> None:
    store = Store()
    with capture_logs() as logs:
        assert await wait_for_addresses(store, "n", lambda: listed, limit=0.01) is None
        store.upsert(Node("n"))
        assert await wait_for_addresses(store, "n", lambda: listed, limit=0.01) == Node("n")
        store.upsert(Node("n", ("192.168.0.1",)))
        assert await wait_for_addresses(store, "n", lambda: listed, limit=0.01) == Node("n", ("192.168.0.1",))
    missing = "is not in the API" if listed else "has not been read from the API server yet"
    assert [each["event"] for each in logs] == [
        f"Our Node {missing}; serving without",
        "Our Node has no addresses; serving without",
    ]
