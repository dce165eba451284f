"""Clients of every kind at once, who remember what went wrong and how long they waited."""

import asyncio
import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from userproxy.demo.hosts import Address, Host

SERVER: Final = """
import asyncio, hashlib, sys
BLOCK = bytes(range(256)) * 4096

async def serve(reader, writer):
    try:
        words = (await reader.readline()).split()
        if words[0] == b"keep":
            while line := await reader.readline():
                writer.write(sys.argv[1].encode() + b" " + line)
        elif words[0] == b"down":
            for _ in range(int(words[1])):
                writer.write(BLOCK)
                await writer.drain()
        elif words[0] == b"up":
            found = hashlib.sha256()
            while data := await reader.read(1 << 20):
                found.update(data)
            writer.write(found.hexdigest().encode())
        elif words[0] == b"late":
            await reader.read()
            await asyncio.sleep(float(words[1]))
            writer.write(b"late answer")
    except ConnectionError:
        pass
    writer.close()

class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(sys.argv[1].encode() + b" %d " % address[1] + data, address)

async def main():
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Datagrams, ("0.0.0.0", 9000))
    async with await asyncio.start_server(serve, "0.0.0.0", 9000, backlog=1024) as server:
        await server.serve_forever()

asyncio.run(main())
"""
"""What Pods run, with their name as its argument."""

_BLOCK: Final = bytes(range(256)) * 4096

Talk = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Load:
    """Clients in `host` of a service at `address`, TCP and UDP; and of one at `sticky`, with affinity.

    ``failures`` are sentences. ``longest`` is the longest wait since :meth:`forget`, in seconds, and whose.
    """

    def __init__(
        self, host: Host, address: Address, sticky: Address, *, kept: int, rate: float, flows: int, megabytes: int
    ) -> None:
        self._host = host
        self._address = address
        self._sticky = sticky
        self._counts = (kept, flows, megabytes)
        self._rate = rate
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="load", daemon=True)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.failures: list[str] = []
        self.longest = (0.0, "")
        self.answers = 0
        self.transfers = 0
        """Downloads and uploads that have ended well."""
        self.pods: set[bytes] = set()
        """Those that have answered at the address with affinity."""

    def forget(self) -> tuple[float, str]:
        """The longest wait so far and whose it was, and begin anew."""
        longest, self.longest = self.longest, (0.0, "")
        return longest

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(120)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _begin(self) -> None:
        kept, flows, _ = self._counts
        talks = [await self._connect(self._address) for _ in range(kept)]
        begun: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("new connections", self._new_ones),
            ("download", self._download),
            ("upload", self._upload),
            ("slow reader", self._slow_reader),
            ("half-closed", self._half_closed),
        ]
        begun += [(f"kept connection {n}", lambda talk=talk: self._keep(talk)) for n, talk in enumerate(talks)]  # type: ignore[misc]
        begun += [(f"flow {n}", self._flow) for n in range(flows)]
        for name, coroutine in begun:
            self._tasks.append(self._loop.create_task(self._watched(name, coroutine), name=name))

    async def _end(self) -> None:
        self._stop.set()
        await asyncio.wait(self._tasks, timeout=90)
        self.failures += [f"{task.get_name()}: it does not end" for task in self._tasks if not task.done()]
        for task in self._tasks:
            task.cancel()

    async def _watched(self, name: str, coroutine: Callable[[], Awaitable[None]]) -> None:
        try:
            await coroutine()
        except (OSError, EOFError, AssertionError, TimeoutError) as error:
            self.failures.append(f"{name}: {type(error).__name__}: {error}")

    async def _connect(self, address: Address, **options: Any) -> Talk:
        # connect(2) in the host's thread would wait for others' turns: only the socket is made there.
        sock = self._host.socket()
        sock.setblocking(False)
        for option, value in options.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        async with asyncio.timeout(10):
            await self._loop.sock_connect(sock, address)
        return await asyncio.open_connection(sock=sock, limit=1 << 20)

    async def _timed(self, answer: Awaitable[bytes]) -> bytes:
        began = time.monotonic()
        async with asyncio.timeout(10):
            found = await answer
        self._note(began, "an answer")
        self.answers += 1
        return found

    def _note(self, began: float, what: str) -> None:
        task = asyncio.current_task()
        self.longest = max(self.longest, (time.monotonic() - began, f"{what}, {task and task.get_name()}"))

    async def _keep(self, talk: Talk) -> None:
        reader, writer = talk
        writer.write(b"keep\n")
        pod = b""
        number = 0
        while not self._stop.is_set():
            number += 1
            writer.write(b"%d\n" % number)
            name, _, said = (await self._timed(reader.readline())).partition(b" ")
            assert said == b"%d\n" % number, f"{said!r} instead of {number}"
            assert pod in (b"", name), "another Pod answers"
            pod = name
            await asyncio.sleep(0.1)
        writer.close()

    async def _new_ones(self) -> None:
        pending: set[asyncio.Task[None]] = set()
        while not self._stop.is_set():
            for address in (self._address, self._sticky):
                task = self._loop.create_task(self._watched("a new connection", lambda at=address: self._new(at)))  # type: ignore[misc]
                pending.add(task)
                task.add_done_callback(pending.discard)
            await asyncio.sleep(2 / self._rate)
        if pending:
            await asyncio.wait(pending)

    async def _new(self, address: Address) -> None:
        began = time.monotonic()
        reader, writer = await self._connect(address)
        self._note(began, "a connect")
        writer.write(b"keep\nhello\n")
        name, _, said = (await self._timed(reader.readline())).partition(b" ")
        assert said == b"hello\n"
        if address == self._sticky:
            self.pods.add(name)
        writer.close()

    async def _download(self) -> None:
        wanted = self._digest()
        while not self._stop.is_set():
            reader, writer = await self._connect(self._address)
            writer.write(b"down %d\n" % self._counts[2])
            assert await _digest_of(reader) == wanted, "what came is not what was sent"
            writer.close()
            self.transfers += 1

    async def _upload(self) -> None:
        wanted = self._digest()
        while not self._stop.is_set():
            reader, writer = await self._connect(self._address)
            writer.write(b"up\n")
            for _ in range(self._counts[2]):
                writer.write(_BLOCK)
                await writer.drain()
            writer.write_eof()
            assert (await reader.read()).decode() == wanted, "what came is not what was sent"
            writer.close()
            self.transfers += 1

    async def _slow_reader(self) -> None:
        reader, writer = await self._connect(self._address, SO_RCVBUF=4096)
        writer.write(b"down 16\n")
        found = hashlib.sha256()
        while data := await reader.read(4096):
            found.update(data)
            if not self._stop.is_set():
                await asyncio.sleep(0.05)
        assert found.hexdigest() == self._digest(16), "what came is not what was sent"
        writer.close()

    async def _half_closed(self) -> None:
        while not self._stop.is_set():
            reader, writer = await self._connect(self._address)
            writer.write(b"late 2\nquestion")
            writer.write_eof()
            assert await reader.read() == b"late answer"
            writer.close()

    async def _flow(self) -> None:
        with contextlib.closing(self._host.socket(kind=socket.SOCK_DGRAM)) as sock:
            sock.setblocking(False)
            sock.connect(self._address)
            seen: set[Sequence[bytes]] = set()
            number = 0
            while not self._stop.is_set():
                number += 1
                sock.send(b"%d" % number)
                answer = (await self._timed(self._loop.sock_recv(sock, 100))).split(b" ")
                assert answer[2] == b"%d" % number, f"{answer!r} instead of {number}"
                seen.add(tuple(answer[:2]))
                assert len(seen) == 1, f"the flow has moved: {seen}"
                await asyncio.sleep(0.2)

    def _digest(self, megabytes: int | None = None) -> str:
        found = hashlib.sha256()
        for _ in range(self._counts[2] if megabytes is None else megabytes):
            found.update(_BLOCK)
        return found.hexdigest()


async def _digest_of(reader: asyncio.StreamReader) -> str:
    found = hashlib.sha256()
    while data := await reader.read(1 << 20):
        found.update(data)
    return found.hexdigest()
