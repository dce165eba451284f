"""Clients that come anew at a steady rate, whatever becomes of them, and how long each one's question was under way."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from tests.lab.timed import TIMESTAMPS, Timed, handshake_seconds
from userproxy.demo.hosts import Address, Host
from userproxy.demo.waiting import eventually


class Newcomer(NamedTuple):
    """When a client began (time.monotonic), its failure if any, and how many seconds it waited.

    That is until the server's kernel had its first words, and leaves out how long the two programs waited for the CPU.
    """

    began: float
    failure: str
    waited: float


class Newcomers:
    """Each second `rate` clients in `host` of each address, where :data:`tests.lab.load.SERVER` serves."""

    def __init__(self, host: Host, addresses: Sequence[Address], rate: float) -> None:
        self._host = host
        self._addresses = addresses
        self._pause = 1 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="newcomers", daemon=True)
        self.came: list[Newcomer] = []
        """Those that have been served, or not, so far."""
        self._waiting: set[object] = set()

    def go_on(self, clients: int) -> None:
        """Return once so many more have been served, and nobody waits who had come by then."""
        before = len(self.came)
        eventually(lambda: sum(not each.failure for each in self.came[before:]) >= clients, 60, "clients are served")
        waiting = self._waiting.copy()
        eventually(lambda: waiting.isdisjoint(self._waiting), 60, "nobody waits any more")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while not self._stop.is_set():
                for address in self._addresses:
                    group.create_task(self._come(address), name="newcomer")
                await asyncio.sleep(self._pause)

    async def _come(self, address: Address) -> None:
        began = time.monotonic()
        noted: list[float] = []
        failure = ""
        itself = object()
        self._waiting.add(itself)
        try:
            async with asyncio.timeout(10):
                await self._ask(address, noted)
        except (OSError, EOFError) as error:  # a TimeoutError, too
            failure = f"{type(error).__name__}: {error}"
        self.came.append(Newcomer(began, failure, sum(noted)))
        self._waiting.discard(itself)

    async def _ask(self, address: Address, noted: list[float]) -> None:
        loop = asyncio.get_running_loop()
        sock = self._host.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, TIMESTAMPS, 1)
        with contextlib.closing(Timed(loop, sock, noted.append)) as timed:
            began = time.monotonic()
            await loop.sock_connect(sock, address)
            noted.append(handshake_seconds(sock, time.monotonic() - began))
            await timed.ask(b"timed\nhello\n")
