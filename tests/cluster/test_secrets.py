"""What is wrong with credentials is told without them: a secret in every field, and every kind of broken text."""

import asyncio
import base64
import io
import json
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from tests.cluster.examples import places, put
from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.objects.manifest import Manifest, read_manifest
from userproxy.cluster.objects.resources import services
from userproxy.config import load
from userproxy.errors import UserproxyError
from userproxy.telemetry.logging import configure

CANARY = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0LWNhbmFyeQ.Q0FOQVJZMTIzNDU2Nzg5MA"
DATA = base64.b64encode(CANARY.encode()).decode()
VERSION = "client.authentication.k8s.io/v1"

BROKEN: dict[str, str | bytes] = {
    "alias": f"token: *{CANARY}",
    "tag": f"token: !{CANARY} x",
    "tagged": f"token: !!int {CANARY}",
    "python": f"token: !!python/object:{CANARY} x",
    "quote": f"token: '{CANARY}",
    "brace": f"token: {{{CANARY}",
    "colon": f"token: {CANARY}: {CANARY}",
    "tab": f"users:\n\t- token: {CANARY}",
    "bracket": f"token: {CANARY}\n]",
    "directive": f"%{CANARY}\n---\na: 1",
    "twice": f"a: {{{CANARY}: 1, {CANARY}: 2}}",
    "loop": f"a: &a [*a, {CANARY}]",
    "deep": "[" * 300 + CANARY + "]" * 300,
    "very deep": "{a: " * 30_000 + CANARY,
    "scalar": CANARY,
    "list": f"- {CANARY}",
    "documents": f"token: {CANARY}\n---\ntoken: {CANARY}",
    "date": f"token: 2026-99-99\nother: {CANARY}",
    "bytes": f"token: {CANARY}\xff".encode("latin-1"),
    "control": f"token: {CANARY}\x00\x01",
    "key": f"? [{CANARY}]\n: 1",
    "merge": f"<<: {CANARY}",
    "json": json.dumps({"token": CANARY})[:-3],
}
FIELDS: dict[str, Any] = {
    "current-context": "c",
    "clusters": [
        {
            "name": "k",
            "cluster": {
                "server": f"http://me:{CANARY}@127.0.0.1:1",
                "proxy-url": f"http://me:{CANARY}@127.0.0.1:1",
                "certificate-authority": CANARY,
                "certificate-authority-data": DATA,
            },
        }
    ],
    "users": [
        {
            "name": "u",
            "user": {
                "token": CANARY,
                "tokenFile": CANARY,
                "username": "me",
                "password": CANARY,
                "client-certificate": CANARY,
                "client-certificate-data": DATA,
                "client-key": CANARY,
                "client-key-data": DATA,
                "exec": {
                    "command": "false",
                    "apiVersion": VERSION,
                    "args": [CANARY],
                    "env": [{"name": "X", "value": CANARY}],
                },
                "auth-provider": {"name": "oidc", "config": {"id-token": CANARY, "idp-issuer-url": CANARY}},
                "as": "somebody",
                "as-user-extra": {"scopes": [CANARY]},
            },
        }
    ],
    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
}
SECRET = [path for path in places(FIELDS) if path[2:3] in (("user",), ("cluster",)) and len(path) > 3]
VALUES = {
    "plain": CANARY,
    "base64": DATA,
    "line": f"{CANARY}\n",
    "list": [CANARY],
    "mapping": {CANARY: CANARY},
    "key": f"-----BEGIN PRIVATE KEY-----\n{DATA}\n-----END PRIVATE KEY-----\n",
    "null byte": f"{CANARY}\x00",
    "foreign": f"{CANARY}ü٢",
}


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """All that is logged, at the highest verbosity."""
    stream = io.StringIO()
    configure(9, "text", stream)
    yield stream
    structlog.reset_defaults()


def reveals(text: str) -> bool:
    return CANARY[:20] in text or CANARY[-20:] in text or DATA[:20] in text or DATA[-20:] in text


async def use(path: Path) -> str:
    """Try the kubeconfig at `path` as a proxy would, and return what it would say in the end."""
    try:
        client = await open_client(ApiAccess(kubeconfig=path))
    except UserproxyError as error:
        return "".join(traceback.format_exception(error))
    try:
        async with client.get(services(None), "list", {}, 1.0) as chunks:
            async for _ in chunks:
                pass
    except UserproxyError as error:
        return str(error)
    finally:
        await client.close()
    return ""


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("suffix", ["", ".json"])
async def test_a_broken_kubeconfig_is_told_by_line_and_column(
    tmp_path: Path, logs: io.StringIO, name: str, suffix: str
) -> None:
    path = tmp_path / f"config{suffix}"
    text = BROKEN[name]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = await use(path)
    assert str(path) in said
    assert not reveals(said + logs.getvalue())


@pytest.mark.parametrize("place", SECRET, ids=lambda place: ".".join(map(str, place)))
async def test_no_field_of_a_kubeconfig_is_quoted(tmp_path: Path, logs: io.StringIO, place: Any) -> None:
    """Every field alone holds the secret, in every form, and then the whole file does."""
    path = tmp_path / "config"
    sparse = {**FIELDS, "users": [{"name": "u", "user": {}}], "clusters": _cluster(server="https://127.0.0.1:1")}
    for value in VALUES.values():
        for base in (FIELDS, sparse):
            try:
                document = put(base, place, value)
            except (TypeError, AttributeError, KeyError):
                continue
            path.write_text(yaml.safe_dump(document))
            assert not reveals(await use(path)), value
    assert not reveals(logs.getvalue())


def _cluster(**cluster: object) -> list[dict[str, object]]:
    return [{"name": "k", "cluster": {name.replace("_", "-"): value for name, value in cluster.items()}}]


ANSWERS = {
    "no JSON": f"print('{CANARY}')",
    "half": f'print(\'{{"token": "{CANARY}"\')',
    "no status": f'print(\'{{"kind": "x", "apiVersion": "{VERSION}", "token": "{CANARY}"}}\')',
    "version": f'print(\'{{"kind": "x", "apiVersion": "{CANARY}", "status": 1}}\')',
    "list": f"print('[\"{CANARY}\"]')",
    "status": f'print(\'{{"kind": "x", "apiVersion": "{VERSION}", "status": "{CANARY}"}}\')',
    "expiry": f'print(\'{{"kind": "x", "apiVersion": "{VERSION}", "status": {{"token": "t", '
    f'"expirationTimestamp": "{CANARY}"}}}}\')',
    "deep": f"print('[' * 100_000 + '{CANARY}')",
    "complains": f"import sys; sys.exit('cannot use {CANARY} for this')",
    "garbage": f"import sys; sys.stdout.buffer.write(b'\\xff{CANARY}')",
    "complains in garbage": f"import sys; sys.stderr.buffer.write(b'\\xff{CANARY}'); sys.exit(1)",
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_a_plugin_prints_is_not_quoted(tmp_path: Path, logs: io.StringIO, name: str) -> None:
    plugin = {"command": sys.executable, "apiVersion": VERSION, "args": ["-c", ANSWERS[name]]}
    user = [{"name": "u", "user": {"exec": plugin}}]
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump({**FIELDS, "users": user, "clusters": _cluster(server="http://127.0.0.1:1")}))
    said = await use(path)
    assert said
    assert not reveals(said + logs.getvalue())


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A server that gives every request the same answer; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
@pytest.mark.parametrize("at", ["server", "proxy"])
async def test_a_password_in_a_url_is_not_told(tmp_path: Path, logs: io.StringIO, answer: bytes, at: str) -> None:
    path = tmp_path / "config"
    async with answering(answer) as port:
        mine, other = f"http://me:{CANARY}@127.0.0.1:{port}", f"https://me:{CANARY}@127.0.0.1:1"
        cluster = _cluster(server=mine) if at == "server" else _cluster(server=other, proxy_url=mine)
        path.write_text(yaml.safe_dump({**FIELDS, "users": [{"name": "u", "user": {}}], "clusters": cluster}))
        said = await use(path)
    assert "The API server" in said
    assert not reveals(said + logs.getvalue())


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("file", ["a.yaml", "a.json"])
def test_a_manifest_that_is_none_is_not_quoted(name: str, file: str) -> None:
    """A Secret that somebody has put into the folder; keys are no secrets, and one given twice is named."""
    text = BROKEN[name]
    data = text if isinstance(text, bytes) else text.encode()
    told = [problem.text for problem in read_manifest(data, file, Manifest()).problems]
    assert name == "twice" or not reveals(str(told))


@pytest.mark.parametrize("name", BROKEN)
def test_another_file_for_the_configuration_is_not_quoted(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config"
    text = BROKEN[name]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserproxyError) as caught:
        load({"config": str(path)})
    assert not reveals("".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize("text", [BROKEN["colon"], BROKEN["alias"], BROKEN["very deep"], yaml.safe_dump(FIELDS)])
def test_the_command_says_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    command = [sys.executable, "-m", "userproxy", "run", "--portals", "none", "-v", "9", "--kubeconfig", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert f"{path}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not reveals(done.stdout + done.stderr)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_shows_no_local_variables(log_format: str) -> None:
    stream = io.StringIO()
    configure(0, log_format, stream)
    token = CANARY
    try:
        raise RuntimeError(f"a bug after {len(token)} characters")
    except RuntimeError as error:
        structlog.get_logger().error("A bug", exc_info=error)
    finally:
        structlog.reset_defaults()
    assert "a bug after" in stream.getvalue()
    assert not reveals(stream.getvalue())
