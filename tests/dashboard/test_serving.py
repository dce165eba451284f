"""The dashboard as a program."""

import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.dashboard.serving import proxy
from userproxy.admin.client import AdminError
from userproxy.dashboard.serving import PortTakenError, has_screen, serve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_until_it_is_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    links: list[str] = []

    def announce(link: str) -> None:
        links.append(link)
        os.kill(os.getpid(), number)

    async with proxy(tmp_path) as api:
        await serve(api.path, 0, announce)
    assert links[0].startswith("http://127.0.0.1:")


async def test_without_a_proxy_it_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(AdminError, match="no userproxy runs here"):
        await serve(tmp_path / "admin.sock", 0, lambda _: None)


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with proxy(tmp_path) as api:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(PortTakenError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
                await serve(api.path, port, lambda _: None)


@pytest.mark.parametrize(
    ("environ", "user", "expected"),
    [
        ({}, 1000, False),
        ({"DISPLAY": ":0"}, 1000, True),
        ({"WAYLAND_DISPLAY": "w"}, 1000, True),
        ({"DISPLAY": ":0"}, 0, False),
    ],
)
def test_a_browser_is_opened_where_the_user_has_a_screen(environ: Mapping[str, str], user: int, expected: bool) -> None:
    assert has_screen(environ, user) is expected
