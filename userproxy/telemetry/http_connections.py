"""The connections of our own HTTP ports, which are bounded in number, size and time.

They use descriptors and memory of the process that carries the traffic of all Services, and anybody who reaches the
node can open them. So a budget limits their number; beyond it an idle connection is closed, which leaves room for the
next probe. Requests have no body, and each phase of a connection has a time limit.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from aiohttp import web
from msgspec import Struct

from userproxy.telemetry.http import SHUTDOWN_SECONDS, http_logger

Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.Response]]
"""Answers a request. It never sees a body: a connection that sends one is closed after the answer."""

_HEAD_BYTES: Final = 8192
"""Request line and headers together. Those of a probe have a few hundred bytes."""

_FIRST_REQUEST_SECONDS: Final = 0.2
"""How long a port that closes waits for the first requests of clients whom it has accepted."""

_LOOK_AGAIN_SECONDS: Final = 0.005
_BATCH: Final = 16
_PAUSE_SECONDS: Final = 0.008
"""A port accepts this many connections and then pauses for this long: 2,000 a second, at about 0.1 ms of CPU each. A
client that opens connections as fast as it can leaves most of the loop's time to others, and one behind a full queue of
1,024 waits for half a second."""

_REST_SECONDS: Final = 0.1
"""How long a connection is not read after an answer. Ten requests a second are more than any probe makes, and a client
that asks as fast as it can on all its connections uses a tenth of the loop's time."""

_NO_DESCRIPTOR_SECONDS: Final = 0.1
_LOGGER: Final = http_logger()

_REFUSALS: Final = {
    status: f"HTTP/1.1 {status} {text}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
    for status, text in ((400, "Bad Request"), (431, "Request Header Fields Too Large"))
}


class TimeLimits(Struct, frozen=True):
    """Seconds. `head` is for a request's head from its first byte on, and for the first byte of the first request;
    `answer` is for making the answer; `idle` is for sending it and for the next request to come."""

    head: float = 5.0
    answer: float = 30.0
    idle: float = 30.0


class ConnectionBudget:
    """Limits the connections of all ports that share it to `most`.

    Beyond that an idle one is closed: the one that has been idle longest, of the client address that has most
    connections. So a client cannot displace others by opening many. Only if all are busy, a busy one is closed, chosen
    likewise.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[_Connection, None] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, connection: "_Connection") -> None:
        """Count a connection that is about to be made, and close others if there are too many."""
        self._held[connection] = None
        self.trim(connection.port)

    def trim(self, port: "HttpPort") -> None:
        """Close connections beyond the limits of one port and of all."""
        _trim([each for each in self._held if each.port is port], port.most)
        _trim(list(self._held), self.most)

    def give(self, connection: "_Connection") -> None:
        """Count a connection as closed."""
        self._held.pop(connection, None)

    def spare(self) -> bool:
        """Close an idle connection, if there is one."""
        idle = [each for each in self._held if each.idle]
        _trim(idle, len(idle) - 1)
        return bool(idle)


def _trim(held: list["_Connection"], most: int) -> None:
    """Close connections until there are `most`, but never the last of them."""
    while len(held) > most:
        victim = _victim(held)
        if victim is None:
            return
        held.remove(victim)
        victim.evict()


def _victim(held: list["_Connection"]) -> "_Connection | None":
    """The connection to close. None if it is one of several that were accepted together and are still to be made."""
    counts = Counter(each.source for each in held)
    made = [each for each in held if each.connected_to is not None]
    several = len(held) - len(made) > 1
    candidates = [each for each in made if each.idle] or ([] if several else made)
    victim = min(candidates, key=lambda each: (-counts[each.source], each.since), default=None)
    if victim is not None and several and counts[victim.source] < max(counts.values()):
        return None
    return victim


class HttpPort:
    """Answers HTTP requests on listening sockets, within a budget of connections.

    `most` limits the connections of this port; None means the whole budget.
    """

    def __init__(
        self, answer: Handler, budget: ConnectionBudget, most: int | None = None, limits: TimeLimits | None = None
    ) -> None:
        self.most = budget.most if most is None else min(most, budget.most)
        self.limits = limits or TimeLimits()
        self.budget = budget
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._server = web.Server(self._answered, handler_cancellation=True)
        self._listening: dict[socket.socket, asyncio.TimerHandle | None] = {}
        self._joining: set[asyncio.Task[None]] = set()
        self.unasked: set[_Connection] = set()
        """Connections whose first request has not come yet."""

    def listen(self, listening: socket.socket) -> None:
        """Serve the clients of a listening socket, which the port closes at its end."""
        listening.setblocking(False)  # noqa: FBT003 -- as the library has it
        self._listening[listening] = None
        self._loop.add_reader(listening, self._accept, listening)

    async def close(self) -> None:
        """Close the sockets at once; answers under way get half a second to finish.

        Clients who have just been accepted are waited for: their first request is on its way, and a successor that has
        the same socket by now cannot answer it.
        """
        for listening, pause in self._listening.items():
            if pause is None:
                self._loop.remove_reader(listening)
            else:
                pause.cancel()
            listening.close()
        self._listening.clear()
        if self._joining:
            await asyncio.wait(self._joining)
        end = self._loop.time() + _FIRST_REQUEST_SECONDS
        while self.unasked and self._loop.time() < end:  # noqa: ASYNC110 -- no request says that it is on its way
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        self._server.pre_shutdown()
        await self._server.shutdown(SHUTDOWN_SECONDS)

    def _accept(self, listening: socket.socket) -> None:
        pause = _PAUSE_SECONDS
        try:
            for _ in range(_BATCH):
                client, address = listening.accept()
                self._join(client, address[0])
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass
        except OSError:  # no descriptor or memory is left: asyncio's own server logs and sleeps, uvloop's hangs up
            pause = 0.0 if self.budget.spare() else _NO_DESCRIPTOR_SECONDS
        self._loop.remove_reader(listening)
        self._listening[listening] = self._loop.call_later(pause, self._accept_again, listening)

    def _accept_again(self, listening: socket.socket) -> None:
        self.budget.trim(self)  # those that were taken together are made by now
        self._listening[listening] = None
        self._loop.add_reader(listening, self._accept, listening)

    def _join(self, client: socket.socket, source: str) -> None:
        client.setblocking(False)  # noqa: FBT003 -- as the library has it
        connection = _Connection(self, source, self._server, self._loop)
        self.budget.take(connection)
        # It ends within two turns of the loop, and close() waits for it.
        task = self._loop.create_task(self._connect(connection, client), name="accept HTTP")
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _connect(self, connection: "_Connection", client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, client)
        except OSError:  # it has gone already
            self.budget.give(connection)
            client.close()

    async def _answered(self, request: web.BaseRequest) -> web.Response:
        try:
            return await self._answer(request)
        finally:
            if isinstance(request.protocol, _Connection):
                request.protocol.answered()


class _Connection(web.RequestHandler):
    """One client's connection. It gives aiohttp whole heads of requests, one at a time, and nothing else."""

    __slots__ = ("_answering", "_head", "_rest", "_timer", "connected_to", "port", "since", "source")

    def __init__(self, port: HttpPort, source: str, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        idle = 2 * port.limits.idle + 1  # ours comes first
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own servers have none by this, too
            logger=_LOGGER,
            keepalive_timeout=idle,
            lingering_time=0.0,
        )
        self.port = port
        self.source = source
        """The client's address."""
        self.connected_to: asyncio.Transport | None = None
        """Its transport as long as there is one; aiohttp's own attribute is None as soon as it begins to close."""
        self.since = time.monotonic()
        """When it last became idle or busy."""
        self._answering = False
        self._head = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way: no whole head has come since the last answer was sent."""
        return not self._answering and self.connected_to is not None and not self.connected_to.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connected_to = self.transport
        self.port.unasked.add(self)
        self._within(self.port.limits.head)

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._timer, self._rest):
            if timer is not None:
                timer.cancel()
        self.connected_to = None
        self.port.unasked.discard(self)
        self.port.budget.give(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._answering:
            self._end_after_answer()
            return
        if not self._head:
            if not (0x41 <= data[0] <= 0x5A or 0x61 <= data[0] <= 0x7A):  # no method begins so, but TLS does
                self._refuse(400)
                return
            self._within(self.port.limits.head)
        kept = len(self._head)
        self._head += data[: _HEAD_BYTES - kept]
        end = self._head.find(b"\r\n\r\n", max(0, kept - 3))
        if end >= 0:
            self._pass_on(end + 4, surplus=kept + len(data) > end + 4)
        elif kept + len(data) >= _HEAD_BYTES:
            self._refuse(431)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio allows it
        """A client that has closed its side after a request is still answered, as by Go's server."""
        if self._answering:
            self.close()
        return self._answering

    def _pass_on(self, end: int, *, surplus: bool) -> None:
        head = bytes(self._head[:end])
        self._head.clear()
        self.port.unasked.discard(self)
        self._answering = True
        self.since = time.monotonic()
        self._within(self.port.limits.answer)
        super().data_received(head)
        if surplus:
            self._end_after_answer()

    def _end_after_answer(self) -> None:
        """There is more than one head: a body, which is not read, or a request before the last one was answered."""
        self.close()
        if self.transport is not None:
            self.transport.pause_reading()

    def answered(self) -> None:
        """The answer to the request under way is made."""
        self._answering = False
        self.since = time.monotonic()
        self._within(self.port.limits.idle)
        if self.connected_to is not None and not self.connected_to.is_closing():
            self.connected_to.pause_reading()
            self._rest = self._loop.call_later(_REST_SECONDS, self._read_again)

    def _read_again(self) -> None:
        if self.connected_to is not None and not self.connected_to.is_closing():
            self.connected_to.resume_reading()

    def _refuse(self, status: int) -> None:
        if self.transport is not None:
            self.transport.write(_REFUSALS[status])
        self.force_close()

    def evict(self) -> None:
        """Close it now, and release its descriptor."""
        self.port.budget.give(self)
        if self.connected_to is not None:
            self.connected_to.abort()

    def _within(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.evict)
