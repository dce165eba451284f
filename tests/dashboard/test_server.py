"""The dashboard's server: who is let in, and what tabs are told."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.admin.planes import ONE, WEB, connection
from tests.dashboard.serving import dashboard, figures, proxy, shown
from userproxy.dashboard.admission import HEADERS
from userproxy.dashboard.files import page_files
from userproxy.dashboard.server import CHANGES, MOST_TABS
from userproxy.model import ListenerName
from userproxy.model.reports import Decision, Outcome, SocketAddress

WEB_KEY = "default/web/http/TCP"
NOBODY = 65534
ASKED = """
import sys, urllib.request, urllib.error
request = urllib.request.Request(sys.argv[1], headers={"Cookie": sys.argv[2]})
try:
    answer = urllib.request.urlopen(request, timeout=20)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
"""


def failure(body: bytes) -> str:
    return str(msgspec.json.decode(body)["error"])


async def test_the_page_is_served_and_says_nothing_of_the_proxy_before_a_session(tmp_path: Path) -> None:
    async with shown(tmp_path) as (page, _):
        for path, file in page_files().items():
            status, headers, body = await page.ask("GET", path)
            assert (status, body) == (200, file.content)
            assert {name: headers[name] for name in HEADERS} == HEADERS
        status, headers, body = await page.ask("GET", "/live")
        assert (status, "userproxy dashboard" in failure(body)) == (401, True)
        assert headers["Cache-Control"] == "no-store"


async def test_the_token_is_worth_one_session(tmp_path: Path) -> None:
    async with shown(tmp_path) as (page, _):
        status, headers, _ = await page.ask("POST", "/session", {"token": page.token})
        assert status == 204
        cookie = headers["Set-Cookie"]
        name, _, attributes = cookie.partition("; ")
        assert name.startswith(f"userproxy-dashboard-{page.port}=")
        assert {each.strip() for each in attributes.split(";")} == {"HttpOnly", "Path=/", "SameSite=Strict"}
        assert page.token not in cookie
        status, _, body = await page.ask("POST", "/session", {"token": page.token})
        assert (status, "used already" in failure(body)) == (403, True)
        async with page.live() as frames:
            assert (await anext(frames))["kind"] == "look"


@pytest.mark.parametrize("body", [{"token": "wrong"}, {"token": ""}, {}, [], "token", {"token": 1}])
async def test_a_wrong_token_opens_nothing_and_leaves_the_right_one(tmp_path: Path, body: Any) -> None:
    async with shown(tmp_path) as (page, _):
        status, headers, _ = await page.ask("POST", "/session", body)
        assert status in (400, 403)
        assert "Set-Cookie" not in headers
        assert (await page.ask("GET", "/live"))[0] == 401
        await page.enter()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/live", {"Host": "rebound.example"}, 403),
        ("GET", "/live", {"Host": "127.0.0.1"}, 403),
        ("GET", "/", {"Host": "rebound.example"}, 403),
        ("GET", "/main.js", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("GET", "/", {"Sec-Fetch-Dest": "iframe"}, 403),
        ("GET", "/live", {"Origin": "http://evil.example"}, 403),
        ("GET", "/live", {"Origin": "null"}, 403),
        ("GET", "/live", {"Cookie": "userproxy-dashboard=1"}, 401),
        ("POST", "/session", {"Origin": "http://evil.example"}, 403),
        ("POST", "/session", {"Content-Type": "text/plain"}, 403),
        ("POST", "/session", {"Content-Type": "application/x-www-form-urlencoded"}, 403),
        ("GET", "/session", {}, 405),
        ("HEAD", "/session", {}, 405),
        ("POST", "/live", {}, 405),
        ("POST", "/", {}, 405),
        ("GET", "/../pyproject.toml", {}, 401),
        ("GET", "/%2e%2e/server.py", {}, 401),
        ("GET", "/server.py", {}, 401),
        ("GET", "/v1/status", {}, 401),
    ],
)
async def test_what_is_refused(tmp_path: Path, method: str, path: str, headers: Mapping[str, str], status: int) -> None:
    async with shown(tmp_path) as (page, _):
        if status != 401:
            await page.enter()
        body = {"token": page.token} if method == "POST" else None
        found, answered, text = await page.ask(method, path, body, headers)
        assert found == status
        assert method == "HEAD" or failure(text)
        assert {name: answered[name] for name in HEADERS} == HEADERS


async def test_requests_that_are_refused_do_not_use_up_the_token(tmp_path: Path) -> None:
    async with shown(tmp_path) as (page, _):
        for headers in ({"Origin": "http://evil.example"}, {"Host": "rebound.example"}):
            assert (await page.ask("POST", "/session", {"token": page.token}, headers))[0] == 403
        await page.enter()


@pytest.mark.usefixtures("root")
async def test_another_user_of_the_machine_is_refused_whatever_they_know(tmp_path: Path) -> None:
    async with shown(tmp_path) as (page, _):
        _, headers, _ = await page.ask("POST", "/session", {"token": page.token})
        cookie = headers["Set-Cookie"].partition(";")[0]
        for user, expected in (("root", "200 "), (str(NOBODY), "403 ")):
            argv = ["setpriv", f"--reuid={user}", "--clear-groups", sys.executable, "-S", "-c", ASKED]
            done = await _run([*argv, f"{page.origin}/icon.svg", cookie])
            assert done.startswith(expected), done
        assert "who has started it" in done


async def _run(argv: list[str]) -> str:
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=True, cwd="/")
    return str(done.stdout)


async def test_a_stranger_is_refused_the_session(tmp_path: Path) -> None:
    async with shown(tmp_path, users=frozenset({NOBODY})) as (page, _):
        for method, path in (("GET", "/"), ("POST", "/session"), ("GET", "/live")):
            status, _, body = await page.ask(method, path, {"token": page.token} if method == "POST" else None)
            assert (status, "who has started it" in failure(body)) == (403, True)


async def test_a_tab_is_told_of_services_and_of_what_changes(tmp_path: Path) -> None:
    async with shown(tmp_path) as (page, api):
        await page.enter()
        api.data.figures = (figures(total=10, active=2, up=100, down=2000),)
        async with page.live() as frames:
            first = await anext(frames)
            rows = {row["key"]: row for row in first["services"]["changed"]}
            assert rows.keys() == {WEB_KEY, "kube-system/dns/dns/UDP"}
            assert (rows[WEB_KEY]["total"], rows[WEB_KEY]["active"], rows[WEB_KEY]["opened_rate"]) == (10, 2, 0.0)
            assert first["status"]["node"] == "node-1"
            api.data.figures = (figures(total=1010, active=3, up=100, down=2000),)
            async for frame in frames:
                if frame["kind"] == "look" and frame["services"]["changed"]:
                    break
            (row,) = frame["services"]["changed"]
            assert (row["key"], row["total"]) == (WEB_KEY, 1010)
            assert row["opened_rate"] > 0
            assert "status" not in frame


async def test_a_tab_that_shows_a_service_is_told_all_of_it(tmp_path: Path) -> None:
    async with shown(tmp_path) as (page, api):
        await page.enter()
        api.data.figures = (figures(total=10, active=1, up=100, down=2000),)
        api.data.open = [connection(1)]
        async with page.live(f"?service={WEB_KEY}&connections=true") as frames:
            frame = await anext(frames)
            detail = frame["detail"]
            assert [row["endpoint"] for row in detail["endpoints"]] == ["10.1.0.1:8080", "10.1.0.2:8080"]
            assert detail["endpoints"][0]["total"] == 10
            assert [row["portal"] for row in detail["portals"]] == ["10.96.0.10:80"]
            assert [(row["client"], row["portal"], row["active"]) for row in detail["paths"]] == [
                ("10.2.0.9", "10.96.0.10:80", 1)
            ]
            (row,) = frame["connections"]["changed"]
            assert (row["id"], row["endpoint"], row["bytes_down"]) == (1, str(ONE), 2000)


async def test_the_proxy_goes_and_comes_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, AsyncExitStack() as first:
        api = await first.enter_async_context(proxy(tmp_path))
        page = await stack.enter_async_context(dashboard(api.path))
        await page.enter()
        frames = await stack.enter_async_context(page.live())
        assert (await anext(frames))["trouble"] == ""
        await first.aclose()
        gone = await until(frames, lambda frame: frame["trouble"] != "")
        assert str(api.path) in gone["trouble"]
        assert "services" not in gone
        await stack.enter_async_context(proxy(tmp_path))
        back = await until(frames, lambda frame: frame["trouble"] == "")
        assert back["services"]["gone"] == []


async def until(frames: AsyncIterator[dict[str, Any]], holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first look for which that holds."""
    async for frame in frames:
        if frame["kind"] == "look" and holds(frame):
            return frame
    raise AssertionError("the stream has ended")


async def test_decisions_come_as_they_fall(tmp_path: Path) -> None:
    async with shown(tmp_path) as (page, api):
        await page.enter()
        api.data.made = [decided(Outcome.SERVED), decided(Outcome.REFUSED)]
        async with page.live() as frames:
            first = await until_decided(frames)
            assert ([each["verdict"] for each in first["items"]], first["missing"]) == (["refused"], 0)
            (watch,) = api.data.decision_watches
            watch.tell(decided(Outcome.TIMED_OUT))
            assert [each["verdict"] for each in (await until_decided(frames))["items"]] == ["timed-out"]
        async with page.live(f"?service={WEB_KEY}") as frames:
            assert [each["verdict"] for each in (await until_decided(frames))["items"]] == ["served", "refused"]


async def until_decided(frames: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """The next decisions."""
    async for frame in frames:
        if frame["kind"] == "decisions":
            return frame
    raise AssertionError("the stream has ended")


def decided(verdict: Outcome) -> Decision:
    """A decision; its time goes by the verdict, so that they differ."""
    client, portal = SocketAddress("10.2.0.9", 4000), SocketAddress("10.96.0.10", 80)
    return Decision(1.7e9 + len(verdict), ListenerName(WEB), client, portal, ONE, verdict, id=len(verdict))


@pytest.mark.parametrize(("method", "route"), CHANGES)
async def test_changes_are_the_proxys_to_allow(tmp_path: Path, method: str, route: str) -> None:
    json = {"Content-Type": "application/json"}
    async with shown(tmp_path) as (page, _):
        own = {"Origin": page.origin, **json}
        assert (await page.ask(method, f"/{route}", {}, own))[0] == 401
        await page.enter()
        for foreign in ({"Origin": "http://evil.example", **json}, {**own, "Content-Type": "text/plain"}):
            assert (await page.ask(method, f"/{route}", {}, foreign))[0] == 403
        status, _, body = await page.ask("GET", f"/{route}?namespace=default&service=web")
        assert (status, "method not allowed" in failure(body)) == (405, True)
        given = {"service": "default/web", "endpoint": str(ONE)} if method == "POST" else None
        query = "" if method == "POST" else "?namespace=default&service=web"
        status, headers, body = await page.ask(method, f"/{route}{query}", given, own)
        assert {name: headers[name] for name in HEADERS} == HEADERS
        match method, route:
            case "POST", "drains":
                assert (status, msgspec.json.decode(body)["endpoint"]) == (200, str(ONE))
            case "DELETE", "drains":
                assert (status, failure(body)) == (404, "no endpoint of default/web is drained")
            case "DELETE", "connections":
                assert (status, msgspec.json.decode(body)) == (200, {"closed": 1})
            case _:
                assert status >= 400


async def test_a_change_without_a_proxy_is_not_made(tmp_path: Path) -> None:
    async with AsyncExitStack() as first:
        api = await first.enter_async_context(proxy(tmp_path))
        async with dashboard(api.path) as page:
            await page.enter()
            await first.aclose()
            given = {"Origin": page.origin, "Content-Type": "application/json"}
            status, _, body = await page.ask("DELETE", "/connections?client=10.0.0.1", None, given)
            assert (status, str(api.path) in failure(body)) == (502, True)


async def test_what_is_no_service_is_refused(tmp_path: Path) -> None:
    async with shown(tmp_path) as (page, _):
        await page.enter()
        status, _, body = await page.ask("GET", "/live?service=web")
        assert (status, "'web' is no port of a Service" in failure(body)) == (400, True)


async def test_there_are_only_so_many_tabs(tmp_path: Path) -> None:
    async with shown(tmp_path) as (page, _), AsyncExitStack() as tabs:
        await page.enter()
        for _ in range(MOST_TABS):
            await anext(await tabs.enter_async_context(page.live()))
        status, _, body = await page.ask("GET", "/live")
        assert (status, "close one" in failure(body)) == (503, True)


async def test_a_tab_that_has_gone_makes_room(tmp_path: Path) -> None:
    async with shown(tmp_path) as (page, _):
        await page.enter()
        for _ in range(MOST_TABS + 1):
            async with page.live() as frames:
                await anext(frames)
            while page.collector.readers:
                await asyncio.sleep(0)
