"""The body of an answer as it comes: in small pieces, and given at once to whoever wants that."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler

PIECE: Final = 16 * 1024
"""Most bytes read, and handed over, at once: traffic waits while they are parsed and split into lines. The loops' own
protocols read 256 KiB at once."""

_ENOUGH: Final = 2
"""So many pieces wait at most; what has arrived beyond them stays in the kernel."""

Take = Callable[[bytes], bool]


class Body(asyncio.BufferedProtocol):
    """Reads a connection for aiohttp's protocol of it, which goes on to parse what comes.

    Iterating over it gives the pieces, and raises what `translate` makes of aiohttp's error where the body is not
    whole, or where nothing has come for `idle_timeout` seconds. While the next piece is waited for `take` is offered
    each one in the call in which it comes, and returns whether it has taken it. What that raises is raised where the
    body is iterated over.

    Once the body has come to its end the connection may carry others, whose bytes are only passed on.

    What comes as one whole chunk after another one that aiohttp has parsed is not parsed by it. So come the changes of
    a watch, of whose cost its parser and streams would be a fifth.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, idle_timeout: float, translate: Callable[[Exception], Exception]
    ) -> None:
        self.take: Take | None = None
        self._translate = translate
        self._content = response.content
        self._idle_timeout = idle_timeout
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        self._is_paused = False
        self._is_between_chunks = False
        """Whether aiohttp's parser is known to be where a chunk may begin, as of one that it has not been given."""
        self._view = memoryview(bytearray(PIECE))
        self._heard = self._loop.time()
        self._timer = self._loop.call_at(self._heard + idle_timeout, self._look)
        self._transport: asyncio.Transport | None = None
        if response.connection is not None and response.connection.protocol is not None:  # else all has come
            self._stand_between(response.connection.protocol)
        self._drain()

    def _stand_between(self, protocol: ResponseHandler) -> None:
        transport = protocol.transport
        if transport is None or transport.is_closing():
            return
        protocol.read_timeout = None  # a timer of its own for each read
        self._protocol, self._transport = protocol, transport
        transport.pause_reading()  # uvloop asks for the kind of protocol as it begins to read
        transport.set_protocol(self)
        transport.resume_reading()

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._content.at_eof():
                raise StopAsyncIteration
            self._resume()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._pieces.popleft()

    def close(self) -> None:
        """Nobody reads it any longer."""
        self._timer.cancel()
        self.take = None
        self._pieces.clear()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the transport is to put what has arrived."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """So much has arrived."""
        self._heard = self._loop.time()
        data = bytes(self._view[:nbytes])
        chunk = whole_chunk(data)
        if chunk and self._is_between_chunks and self._failure is None:
            self._hand_over(chunk)
            self._keep_up()
            return
        parsed_before = self._content.total_bytes
        self._protocol.data_received(data)
        # In the midst of a chunk, or where bodies are not sent in chunks, the parser takes the head for content, too.
        self._is_between_chunks = bool(chunk) and self._content.total_bytes - parsed_before == len(chunk)
        self._drain()

    def eof_received(self) -> None:
        """The server sends no more."""
        self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._protocol.connection_lost(exc)
        self._drain()

    def pause_writing(self) -> None:
        """There is much to send."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """There is less to send."""
        self._protocol.resume_writing()

    def _drain(self) -> None:
        """Hand over what has been parsed."""
        try:
            while self._failure is None and (piece := self._content.read_nowait(PIECE)):
                self._hand_over(piece)
        except (aiohttp.ClientError, OSError) as error:
            self._failure = self._translate(error)
        if self._failure is not None or self._content.at_eof():
            self._wake()
        self._keep_up()

    def _hand_over(self, piece: bytes) -> None:
        try:
            if self._has_taken(piece):
                return
        except BaseException as error:  # noqa: BLE001 -- raised where the body is iterated over
            self._failure = error
        else:
            self._pieces.append(piece)
        self._wake()

    def _keep_up(self) -> None:
        """Read no more for now where enough waits. aiohttp resumes reading whenever it is asked for what it has."""
        if len(self._pieces) >= _ENOUGH and not self._content.at_eof():
            self._pause()

    def _pause(self) -> None:
        if self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def _has_taken(self, piece: bytes) -> bool:
        if self._waiter is None or self.take is None or self._pieces or self._failure is not None:
            return False
        return self.take(piece)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look(self) -> None:
        """Fail where nothing has come for too long, not counting what is not read since we are busy."""
        if self._waiter is None:
            self._heard = self._loop.time()
        if self._loop.time() < self._heard + self._idle_timeout:
            self._timer = self._loop.call_at(self._heard + self._idle_timeout, self._look)
        else:
            self._failure = self._translate(aiohttp.SocketTimeoutError())
            self._wake()


def whole_chunk(data: bytes) -> bytes:
    """What the chunk contains that `data` is, if it is a whole one (RFC 9112, 7.1); else nothing.

    Only the way in which Go's net/http writes chunks counts: no extension, and lower case without leading zeros.
    """
    start = data.find(b"\r\n") + 2
    length = len(data) - start - 2
    if length <= 0 or not data.endswith(b"\r\n") or data[:start] != b"%x\r\n" % length:
        return b""
    return data[start:-2]
