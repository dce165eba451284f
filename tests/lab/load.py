"""Clients of every kind at once, who remember what went wrong and how long they waited."""

import asyncio
import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.lab.timed import TIMESTAMPS, Timed, handshake_seconds
from userproxy.demo.hosts import Address, Host

SERVER: Final = """
import asyncio, hashlib, socket, struct, sys, time
BLOCK = bytes(range(256)) * 4096
NAME = sys.argv[1].encode()
TIMESTAMPS = 35
tasks, took = set(), {}

async def serve(reader, writer):
    try:
        words = (await reader.readline()).split()
        if words[0] == b"keep":
            while line := await reader.readline():
                writer.write(NAME + b" " + line)
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

def received(sock):
    data, said, _, address = sock.recvmsg(1000, 64)
    for _, kind, value in said:
        if kind == TIMESTAMPS:
            seconds, nanoseconds = struct.unpack("=qq", value)
            return data, seconds * 10**9 + nanoseconds, address
    return data, 0, address

class Timed:  # as tests.lab.timed wants it
    def __init__(self, sock):
        self.sock, self.left, self.took = sock, b"", 0
        loop.add_reader(sock, self.read)

    def read(self):
        try:
            data, at, _ = received(self.sock)
            *lines, self.left = (self.left + data).split(b"\\n")
            for line in lines:
                if line != b"timed":
                    began = time.time_ns()
                    self.sock.send(b"%b %b %d %d %d\\n" % (NAME, line, at, began, self.took))
                    self.took = time.time_ns() - began
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(self.sock)
            self.sock.close()

def begin(sock):
    loop.remove_reader(sock)
    try:
        word = sock.recv(6, socket.MSG_PEEK)
    except OSError:
        sock.close()
        return
    if word == b"timed\\n":
        Timed(sock)
        return
    task = loop.create_task(streamed(sock))
    tasks.add(task)
    task.add_done_callback(tasks.discard)

async def streamed(sock):
    await serve(*await asyncio.open_connection(sock=sock))

def accept():
    try:
        while True:
            sock, _ = listening.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop.add_reader(sock, begin, sock)
    except BlockingIOError:
        pass

def read_datagrams():
    try:
        while True:
            data, at, address = received(datagrams)
            word, _, number = data.partition(b" ")
            if word == b"timed":
                began = time.time_ns()
                times = b" %d %d %d" % (at, began, took.get(address, 0))
                datagrams.sendto(NAME + b" %d " % address[1] + number + times, address)
                took[address] = time.time_ns() - began
            else:
                datagrams.sendto(NAME + b" %d " % address[1] + data, address)
    except BlockingIOError:
        pass

loop = asyncio.new_event_loop()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
for sock, read in ((datagrams, read_datagrams), (listening, accept)):
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, TIMESTAMPS, 1)
    sock.bind(("0.0.0.0", 9000))
    loop.add_reader(sock, read)
listening.listen(1024)
loop.run_forever()
"""
"""What Pods run, with their name as its argument."""

_BLOCK: Final = bytes(range(256)) * 4096

Talk = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Longest(NamedTuple):
    """The longest waits, in seconds, and whose: by the clocks of these clients, which share a thread and have to wait
    for the CPU; of what was under way, by those of the kernels at both ends (:mod:`tests.lab.timed`); and in the Pods,
    which only answer: so long a program waits for the CPU here."""

    waited: tuple[float, str] = (0.0, "")
    under_way: tuple[float, str] = (0.0, "")
    in_pods: float = 0.0

    def __str__(self) -> str:
        return f"{self.under_way[0]:.4f} {self.under_way[1]} ({self.waited[0]:.3f}, {self.in_pods:.3f})"


class Load:
    """Clients in `host` of a service at `address`, TCP and UDP; and of one at `sticky`, with affinity.

    ``failures`` are sentences. ``longest`` are the longest waits since :meth:`forget`.
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
        self.longest = Longest()
        self.answers = 0
        self.transfers = 0
        """Downloads and uploads that have ended well."""
        self.pods: set[bytes] = set()
        """Those that have answered at the address with affinity."""

    def forget(self) -> Longest:
        """The longest waits so far, and begin anew."""
        longest, self.longest = self.longest, Longest()
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
        talks = [await self._connect_timed(self._address) for _ in range(kept)]
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

    async def _connect(self, address: Address, **options: int) -> Talk:
        found = {getattr(socket, option): value for option, value in options.items()}
        return await asyncio.open_connection(sock=await self._connected(address, found), limit=1 << 20)

    async def _connect_timed(self, address: Address) -> Timed:
        return self._timed_over(await self._connected(address, {TIMESTAMPS: 1}))

    def _timed_over(self, sock: socket.socket) -> Timed:
        return Timed(self._loop, sock, self._note_under_way, self._note_in_pod)

    async def _connected(self, address: Address, options: Mapping[int, int]) -> socket.socket:
        # connect(2) in the host's thread would wait for others' turns: only the socket is made there.
        sock = self._host.socket()
        sock.setblocking(False)
        for option, value in options.items():
            sock.setsockopt(socket.SOL_SOCKET, option, value)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        async with asyncio.timeout(10):
            await self._loop.sock_connect(sock, address)
        self._note(began, "a connect")
        self._note_under_way(handshake_seconds(sock, time.monotonic() - began))
        return sock

    async def _timed(self, answer: Awaitable[list[bytes]]) -> list[bytes]:
        began = time.monotonic()
        async with asyncio.timeout(10):
            found = await answer
        self._note(began, "an answer")
        self.answers += 1
        return found

    def _note(self, began: float, what: str) -> None:
        waited = max(self.longest.waited, (time.monotonic() - began, f"{what}, {_whose()}"))
        self.longest = self.longest._replace(waited=waited)

    def _note_under_way(self, seconds: float) -> None:
        if seconds > self.longest.under_way[0]:
            self.longest = self.longest._replace(under_way=(seconds, _whose()))

    def _note_in_pod(self, seconds: float) -> None:
        if seconds > self.longest.in_pods:
            self.longest = self.longest._replace(in_pods=seconds)

    async def _keep(self, talk: Timed) -> None:
        pod = b""
        number = 0
        with contextlib.closing(talk):
            while not self._stop.is_set():
                number += 1
                name, said = await self._timed(talk.ask(b"%d\n" % number if pod else b"timed\n%d\n" % number))
                assert said == b"%d" % number, f"{said!r} instead of {number}"
                assert pod in (b"", name), "another Pod answers"
                pod = name
                await asyncio.sleep(0.1)

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
        with contextlib.closing(await self._connect_timed(address)) as talk:
            name, said = await self._timed(talk.ask(b"timed\nhello\n"))
        assert said == b"hello"
        if address == self._sticky:
            self.pods.add(name)

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
        sock = self._host.socket(kind=socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, TIMESTAMPS, 1)
        sock.connect(self._address)
        with contextlib.closing(self._timed_over(sock)) as flow:
            seen: set[Sequence[bytes]] = set()
            number = 0
            while not self._stop.is_set():
                number += 1
                answer = await self._timed(flow.ask(b"timed %d" % number))
                assert answer[2] == b"%d" % number, f"{answer!r} instead of {number}"
                seen.add(tuple(answer[:2]))
                assert len(seen) == 1, f"the flow has moved: {seen}"
                await asyncio.sleep(0.2)

    def _digest(self, megabytes: int | None = None) -> str:
        found = hashlib.sha256()
        for _ in range(self._counts[2] if megabytes is None else megabytes):
            found.update(_BLOCK)
        return found.hexdigest()


def _whose() -> str:
    task = asyncio.current_task()
    return task.get_name() if task is not None else ""


async def _digest_of(reader: asyncio.StreamReader) -> str:
    found = hashlib.sha256()
    while data := await reader.read(1 << 20):
        found.update(data)
    return found.hexdigest()
