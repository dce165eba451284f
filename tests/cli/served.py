"""An admin server in a thread, whose planes say what a test has told them to: commands ask it like a proxy."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from tests.admin.planes import Served, served
from userproxy.cli import main


class Running:
    """The server, as `api`, which only its own thread may touch: see :meth:`tell`."""

    def __init__(self, api: Served, loop: asyncio.AbstractEventLoop) -> None:
        self.api = api
        self._loop = loop

    @property
    def path(self) -> str:
        return str(self.api.path)

    def tell(self, change: Callable[[Served], Any]) -> None:
        """Have the server's thread change what the planes say, and wait for it."""

        async def changed() -> None:
            change(self.api)

        asyncio.run_coroutine_threadsafe(changed(), self._loop).result(30)

    def run(self, *arguments: str) -> Result:
        """Run a command to its end."""
        return CliRunner().invoke(main, [*arguments, "--admin-socket", self.path])


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    """A server that listens, until the end of the context."""
    started: list[Running] = []
    ready, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        async with served(folder) as api:
            started.append(Running(api, asyncio.get_running_loop()))
            ready.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="admin server")
    thread.start()
    try:
        assert ready.wait(30)
        yield started[0]
    finally:
        ended.set()
        thread.join(30)
