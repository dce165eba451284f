"""Serves the dashboard until it is told to end."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from userproxy.dashboard.collector import Collector
from userproxy.dashboard.peers import users_of_page
from userproxy.dashboard.server import DashboardServer
from userproxy.dashboard.upstream import Upstream
from userproxy.errors import UserproxyError

_LOOPBACK: Final = "127.0.0.1"
_QUEUE: Final = 64


class PortTakenError(UserproxyError):
    """The page cannot be served at its port."""


async def serve(path: Path | None, port: int, announce: Callable[[str], None]) -> None:
    """Serve the page about the proxy that is asked at `path`, and call `announce` with its link once it is there.

    Ends at SIGINT or SIGTERM. Port 0 is a free one. Raises AdminError where no proxy answers, and PortTakenError.
    """
    async with Upstream(path) as upstream:
        await upstream.get("version")
        with _listening(port) as listening:
            collector = Collector(upstream)
            server = DashboardServer(listening, upstream, collector, users_of_page())
            await _until_told(collector, server, lambda: announce(server.link))


async def _until_told(collector: Collector, server: DashboardServer, ready: Callable[[], None]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(collector.run(), name="look at the figures"),
            tasks.create_task(server.run(), name="serve the page"),
        ]
        ready()
        await ended.wait()
        for task in running:
            task.cancel()


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((_LOOPBACK, port), backlog=_QUEUE)
    except OSError as error:
        raise PortTakenError(f"cannot listen on {_LOOPBACK}:{port}: {error.strerror or error}") from error


def has_screen(environ: Mapping[str, str] = os.environ, user: int | None = None) -> bool:
    """Whether a browser of the user is to be expected here. Root's would be none that anybody should use."""
    if (os.geteuid() if user is None else user) == 0:
        return False
    return sys.platform == "darwin" or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))
