"""The admin socket of another machine, by a program."""

import sys
from pathlib import Path

import pytest

from tests.dashboard.serving import answering, dashboard, proxy
from userproxy import __version__
from userproxy.admin.client import AdminError
from userproxy.dashboard.tunnel import tunnel
from userproxy.dashboard.upstream import Upstream

RELAY = [sys.executable, "-m", "userproxy", "relay", "--admin-socket"]


async def test_the_proxy_is_asked_by_the_program(tmp_path: Path) -> None:
    async with proxy(tmp_path) as api, tunnel([*RELAY, str(api.path)]) as path:
        assert path != api.path
        assert path.parent.stat().st_mode & 0o777 == 0o700
        async with Upstream(path) as upstream:
            for _ in range(3):
                assert (await upstream.get("version"))["node"] == "node-1"
            assert len(await upstream.items("services")) == 2
    assert not path.parent.exists()


async def test_the_dashboard_shows_it(tmp_path: Path) -> None:
    async with proxy(tmp_path) as api, tunnel([*RELAY, str(api.path)]) as path, dashboard(path) as page:
        await page.enter()
        async with page.live() as frames:
            assert (await anext(frames))["status"]["node"] == "node-1"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([*RELAY, "/nowhere/at/all"], "Error: there is no socket /nowhere/at/all"),
        ([sys.executable, "-c", "import sys; sys.exit('error: unable to upgrade connection')"], "unable to upgrade"),
        (["false"], "false has ended with code 1"),
    ],
)
async def test_a_program_that_fails_says_why(argv: list[str], sentence: str) -> None:
    async with tunnel(argv) as path, Upstream(path) as upstream:
        with pytest.raises(AdminError, match=sentence):
            await upstream.get("version")


async def test_who_is_taken_over_while_it_is_asked_is_not_heard_of(tmp_path: Path) -> None:
    good = f"HTTP/1.1 200 OK\r\nServer: userproxy/{__version__}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    path = tmp_path / "admin.sock"
    async with (
        answering(path, b"", good),
        tunnel([*RELAY, str(path)]) as here,
        Upstream(here) as upstream,
    ):
        assert await upstream.get("version") == {}
