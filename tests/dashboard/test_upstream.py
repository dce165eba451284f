"""The admin API, asked without making anybody else wait."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.admin.planes import ONE, TWO, WEB, connection
from tests.dashboard.serving import answering, proxy
from userproxy import __version__
from userproxy.admin.client import AdminError
from userproxy.dashboard import upstream
from userproxy.dashboard.upstream import Upstream


async def test_objects_lists_and_repeated_parameters(tmp_path: Path) -> None:
    async with proxy(tmp_path) as api, Upstream(api.path) as asked:
        assert (await asked.get("version"))["node"] == "node-1"
        found = await asked.items("endpoints", {"namespace": "default", "service": "web"})
        assert [each["endpoint"] for each in found] == [str(ONE), str(TWO)]
        api.data.open = [connection(1)]
        assert [each["id"] for each in await asked.items("connections", {"state": ["open", "draining"]})] == [1]
        assert await asked.items("connections", {"state": ["dialing"]}) == []


async def test_lines_of_a_watch(tmp_path: Path) -> None:
    async with proxy(tmp_path) as api, Upstream(api.path) as asked:
        lines = asked.lines("services", {"namespace": "default"})
        found = [await anext(lines), await anext(lines)]
        assert [(each["type"], (each["object"] or {}).get("name")) for each in found] == [
            ("ADDED", WEB.name),
            ("SYNCED", None),
        ]
        await lines.aclose()


async def test_a_refusal_is_the_proxys_own_sentence(tmp_path: Path) -> None:
    async with proxy(tmp_path) as api, Upstream(api.path) as asked:
        with pytest.raises(AdminError, match="there is no parameter 'name' here"):
            await asked.get("services", {"name": "web"})


async def test_nobody_is_there(tmp_path: Path) -> None:
    async with Upstream(tmp_path / "admin.sock") as asked:
        with pytest.raises(AdminError, match=r"there is no socket .*admin\.sock: no userproxy runs here"):
            await asked.get("version")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 2\r\n\r\n{}", "is no userproxy"),
        (b"HTTP/1.1 200 OK\r\nServer: userproxy/9.9\r\nContent-Length: 2\r\n\r\n{}", "is version 9.9"),
        (b"SSH-2.0-OpenSSH_9\r\n", "is no HTTP"),
        (b"", "is no HTTP|has closed the connection"),
    ],
)
async def test_something_else_is_there(tmp_path: Path, answer: bytes, sentence: str) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    path = tmp_path / "admin.sock"
    async with await asyncio.start_unix_server(say, path), Upstream(path) as asked:
        with pytest.raises(AdminError, match=sentence):
            await asked.get("version")


async def test_who_is_taken_over_while_it_is_asked_is_not_heard_of(tmp_path: Path) -> None:
    head = f"Server: userproxy/{__version__}\r\nContent-Length: 2\r\n"
    left = f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\n{head}\r\n{{}}".encode()
    good = f"HTTP/1.1 200 OK\r\n{head}\r\n{{}}".encode()
    path = tmp_path / "admin.sock"
    async with answering(path, b"", left, left, good), Upstream(path) as asked:
        assert await asked.get("version") == {}


async def test_who_does_not_answer_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "admin.sock"))
        listening.listen()
        async with Upstream(tmp_path / "admin.sock") as asked:
            with pytest.raises(AdminError, match=r"has not answered within 0\.05 s"):
                await asked.get("version")


def test_there_may_be_no_usual_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "default_socket", lambda: None)
    with pytest.raises(AdminError, match="--admin-socket"):
        Upstream()
