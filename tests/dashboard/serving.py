"""A dashboard about an admin server whose planes say what a test has told them to."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from tests.admin.planes import DNS, ONE, TWO, WEB, Served, served
from userproxy.dashboard.collector import Collector
from userproxy.dashboard.server import DashboardServer
from userproxy.dashboard.upstream import Upstream
from userproxy.model import ListenerName
from userproxy.model.reports import EndpointFigures, ListenerFigures
from userproxy.model.snapshots import Verdict


class Shown:
    """The dashboard, what it shows, and a browser without a window: one cookie jar."""

    def __init__(self, server: DashboardServer, collector: Collector, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.collector = collector
        self.link = server.link
        parts = urlsplit(self.link)
        self.origin = f"http://{parts.netloc}"
        self.port = parts.port
        self.token = parts.fragment.removeprefix("token=")
        self._session = session

    async def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of an answer; as the page itself asks unless `headers` say otherwise."""
        given = {"Origin": self.origin, "Content-Type": "application/json"} if method == "POST" else {}
        data = None if body is None else msgspec.json.encode(body)
        async with self._session.request(
            method, self.origin + path, data=data, headers={**given, **(headers or {})}
        ) as answer:
            endless = answer.ok and path.partition("?")[0] == "/live"
            return answer.status, answer.headers, b"" if endless else await answer.read()

    async def enter(self) -> None:
        """Exchange the link's token for the session."""
        status, _, body = await self.ask("POST", "/session", {"token": self.token})
        assert (status, body) == (204, b"")

    @asynccontextmanager
    async def live(self, query: str = "") -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The frames of a tab, as they come."""
        async with self._session.get(f"{self.origin}/live{query}") as answer:
            assert answer.status == 200, await answer.read()

            async def frames() -> AsyncIterator[dict[str, Any]]:
                async for line in answer.content:
                    yield msgspec.json.decode(line)

            yield frames()


def figures(total: int = 0, active: int = 0, up: int = 0, down: int = 0, **changed: Any) -> ListenerFigures:
    """What the listener of `default/web` has done, all of it with the first endpoint."""
    one = EndpointFigures(ONE, active=active, total=total, bytes_up=up, bytes_down=down)
    return ListenerFigures(
        ListenerName(WEB),
        Verdict.SERVE,
        active=active,
        total=total,
        bytes_up=up,
        bytes_down=down,
        endpoints=(one,),
        **changed,
    )


@asynccontextmanager
async def dashboard(path: Path, users: frozenset[int] | None = None) -> AsyncIterator[Shown]:
    """A dashboard that serves by now, about what answers at `path`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with Upstream(path) as upstream, asyncio.TaskGroup() as tasks:
            collector = Collector(upstream)
            allowed = frozenset({os.geteuid()}) if users is None else users
            server = DashboardServer(listening, upstream, collector, allowed)
            running = [tasks.create_task(collector.run()), tasks.create_task(server.run())]
            async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
                yield Shown(server, collector, session)
            for task in running:
                task.cancel()


@asynccontextmanager
async def proxy(folder: Path) -> AsyncIterator[Served]:
    """The admin API of `default/web` with two endpoints, and `kube-system/dns` with one."""
    async with served(folder) as api:
        api.control.add(WEB, ONE, TWO)
        api.control.add(DNS, ONE, ip="10.96.0.53", port=53)
        api.data.figures = (figures(),)
        yield api


@asynccontextmanager
async def shown(folder: Path, users: frozenset[int] | None = None) -> AsyncIterator[tuple[Shown, Served]]:
    """Both."""
    async with proxy(folder) as api, dashboard(api.path, users) as page:
        yield page, api


@asynccontextmanager
async def answering(path: Path, *answers: bytes) -> AsyncIterator[None]:
    """A server that gives each client the next of these answers, as it stands, until all of them were asked for."""
    left = list(answers)

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(left.pop(0))
        writer.close()

    async with await asyncio.start_unix_server(say, path):
        yield
    assert left == []
