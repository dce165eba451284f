"""The API client against real servers: what their failures mean, and how it follows files that are replaced."""

import asyncio
import os
import re
import socket
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trustme
from structlog.testing import capture_logs

from tests.cluster.examples import service
from tests.cluster.minimal_api import MinimalApi, minimal_api
from tests.cluster.requests import ask, ask_once, kubeconfig, server_context, write_pki
from userproxy.cluster import client as client_module
from userproxy.cluster.api_errors import RefusedError, UnreachableError
from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.objects.resources import services


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


async def test_certificates_are_replaced_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gets certificates of another authority, and the files that we were given say so in their time."""
    monkeypatch.setattr("userproxy.cluster.client._CHECK_FILES_EVERY", 0.0)
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
    monkeypatch.setattr("userproxy.cluster.client._CHECK_FILES_EVERY", 0.0)
    client = await open_client(ApiAccess(kubeconfig=kubeconfig(tmp_path, "http://127.0.0.1:1", {"token": "a"})))
    with pytest.raises(UnreachableError):
        await ask(client)
    kubeconfig(tmp_path, server.url, {"token": "b"})
    await ask(client)
    await client.close()
    assert [header for _, _, header in server.requests] == ["Bearer b"]


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


async def test_an_answer_comes_in_small_pieces_however_much_has_arrived(server: MinimalApi, tmp_path: Path) -> None:
    for number in range(1_000):
        server.put(service(f"s-{number}"))
    client = await open_client(ApiAccess(kubeconfig=kubeconfig(tmp_path, server.url, {})))
    async with client.get(services(None), "list", {"limit": "1000"}, 30.0) as chunks:
        pieces = [piece async for piece in chunks]
    await client.close()
    assert max(map(len, pieces)) <= 16 * 1024
    body = b"".join(pieces)
    assert len(body) > 3 * 16 * 1024
    assert len(msgspec.json.decode(body)["items"]) == 1_000


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
