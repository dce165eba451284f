"""Writes lists in pieces and watches line by line, as fast as they are read and no faster.

A piece is what a slice of time yields, at most 32 KiB: so traffic waits for no list, and no more than a piece and the
buffers of aiohttp and the kernel hold what a client has not read.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import HttpVersion11, web
from msgspec import Struct

from userproxy.admin.items import Change, CutOff
from userproxy.model.data_plane import Watch
from userproxy.model.reports import Batch
from userproxy.pace import Pace

T = TypeVar("T")

PIECE_BYTES: Final = 32_768
_STALLED_SECONDS: Final = 10.0
"""How long a reader may leave a piece unread."""
_LINGER_SECONDS: Final = 30.0
"""How long one that was cut off has to read the last line."""
JSON: Final = "application/json"
LINES: Final = "application/x-ndjson"
_LIST: Final = b'{"items":['
TOO_SLOW: Final = "this reader was too slow, and is told no more: ask again, for less"

_encode = msgspec.json.Encoder().encode


class SlowReaderError(Exception):
    """A reader has left a piece unread for too long, or has not kept up; `lost` counts what it was not told."""

    def __init__(self, lost: int = 0) -> None:
        super().__init__()
        self.lost = lost


async def write_list(
    request: web.BaseRequest,
    rows: AsyncGenerator[tuple[str, Struct], None],
    limit: int | None,
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """Write `limit` rows, all of them if it is None, as the items of one JSON object.

    Nothing is written before the first row is known: what `rows` raises until then can still be answered.
    """
    pieces = _Pieces(request, JSON, headers)
    last, more, count = "", False, 0
    async with aclosing(rows):
        async for key, item in rows:
            more = count == limit
            if more:
                break
            await pieces.add((b"," if count else _LIST) + _encode(item))
            count += 1
            last = key
    await pieces.write((b"" if count else _LIST) + b'],"next":' + _encode(last if more else None) + b"}")
    return await pieces.end()


async def write_changes(
    request: web.BaseRequest, changes: AsyncGenerator[Iterable[Change[Any]], None], headers: Mapping[str, str]
) -> web.StreamResponse:
    """Write changes as lines until there are no more, or the reader is too slow."""
    return await write_parts(request, LINES, _lines(changes), _cut_off, headers)


async def _lines(changes: AsyncGenerator[Iterable[Change[Any]], None]) -> AsyncGenerator[Iterable[bytes], None]:
    async with aclosing(changes):
        async for group in changes:
            yield (_encode(change) + b"\n" for change in group)


async def write_parts(
    request: web.BaseRequest,
    content_type: str,
    groups: AsyncGenerator[Iterable[bytes], None],
    cut_off: Callable[[int], bytes],
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """Write what comes, group by group, until there is no more.

    A reader that is too slow ends `groups`. It gets what `cut_off` makes of the number of things that it was not told,
    as soon as it reads again, and is left.
    """
    pieces = _Pieces(request, content_type, headers)
    try:
        async with aclosing(groups):
            async for group in groups:
                for part in group:
                    await pieces.add(part)
                await pieces.flush()
    except SlowReaderError as error:
        with suppress(SlowReaderError):
            await pieces.last(cut_off(error.lost))
        return pieces.abandoned()
    return await pieces.end()


def _cut_off(lost: int) -> bytes:
    return _encode(CutOff(TOO_SLOW, lost)) + b"\n"


class _Pieces:
    """The body of one answer. Every write waits until the one before has nearly been read."""

    def __init__(self, request: web.BaseRequest, content_type: str, headers: Mapping[str, str]) -> None:
        self._request = request
        self._response = web.StreamResponse(headers={**headers, "Content-Type": content_type})
        if request.version >= HttpVersion11:
            self._response.enable_chunked_encoding()
        else:  # the end of the connection is the end of the answer
            self._response.force_close()
        self._piece = bytearray()
        self._pace = Pace()
        self._writing: asyncio.Task[None] | None = None
        self._ended = False

    async def add(self, data: bytes) -> None:
        """Write `data`, together with what comes next. Raises SlowReaderError."""
        self._piece += data
        if len(self._piece) >= PIECE_BYTES:
            await self.flush()
        await self._pace.keep()

    async def write(self, data: bytes) -> None:
        """Write all that was added, and `data`. Raises SlowReaderError."""
        self._piece += data
        await self.flush()

    async def flush(self) -> None:
        """Write all that was added. Raises SlowReaderError where that is not read for too long."""
        if self._piece:
            piece, self._piece = bytes(self._piece), bytearray()
            await self._within(_STALLED_SECONDS, self._send(piece))

    async def last(self, line: bytes) -> None:
        """Write a last piece, as soon as the one under way is read. Raises SlowReaderError."""
        await self._within(_LINGER_SECONDS, self._finish(line, self._writing))

    async def end(self) -> web.StreamResponse:
        """Write what is left. An answer that is not read to its end is broken off."""
        with suppress(SlowReaderError):
            await self.flush()
            await self._within(_STALLED_SECONDS, self._finish(b"", None))
        return self.abandoned()

    def abandoned(self) -> web.StreamResponse:
        """The answer; where its end could not be written, its connection is broken off."""
        if not self._ended and self._request.transport is not None:
            self._request.transport.abort()
        return self._response

    async def _within(self, seconds: float, writing: Coroutine[Any, Any, None]) -> None:
        """Wait for something to be written. It goes on afterwards: aiohttp cannot wait again for what was cancelled."""
        task = self._writing = asyncio.get_running_loop().create_task(writing, name="write an answer")
        task.add_done_callback(_noted)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise SlowReaderError
        task.result()

    async def _send(self, data: bytes) -> None:
        await self._prepared()
        await self._response.write(data)

    async def _finish(self, line: bytes, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        await self._prepared()
        await self._response.write_eof(line)
        self._ended = True

    async def _prepared(self) -> None:
        if not self._response.prepared:
            await self._response.prepare(self._request)


async def told(watch: Watch[T]) -> AsyncIterator[tuple[T, ...]]:
    """The batches of a watch. Raises SlowReaderError once some of it was lost."""
    while True:
        batch: Batch[T] = await watch.read()
        yield batch.items
        if batch.lost:
            raise SlowReaderError(batch.lost)


def _noted(task: asyncio.Task[None]) -> None:
    """A client that goes while it is written to is no news."""
    if not task.cancelled():
        task.exception()
