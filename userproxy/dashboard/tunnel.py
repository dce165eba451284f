"""The admin socket of another machine, by a program that connects its standard input and output with it.

For each connection to a Unix socket here the program is run once: ``kubectl exec --stdin POD -- userproxy relay``. So
nothing listens on the other machine, and who may ask is what the program asks for.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from userproxy import __version__

_PIECE: Final = 65_536


@asynccontextmanager
async def tunnel(argv: Sequence[str]) -> AsyncIterator[Path]:
    """A Unix socket, for our user alone, whose connections are those of a program; closed at the end of the context."""
    with TemporaryDirectory(prefix="userproxy-") as folder:  # its mode is 0700
        path = Path(folder) / "admin.sock"

        open_ones: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as tasks:

            def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = tasks.create_task(_joined(argv, reader, writer), name="tunnel")
                open_ones.add(task)
                task.add_done_callback(open_ones.discard)

            server = await asyncio.start_unix_server(connect, path)
            try:
                yield path
            finally:
                server.close()
                for task in open_ones:
                    task.cancel()


async def _joined(argv: Sequence[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await _connected(argv, reader, writer)
    except ConnectionError:  # either side has gone
        pass
    finally:
        writer.close()


async def _connected(argv: Sequence[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe)
    assert program.stdin is not None  # noqa: S101 - for mypy: they are pipes
    assert program.stdout is not None  # noqa: S101
    assert program.stderr is not None  # noqa: S101
    try:
        async with asyncio.TaskGroup() as tasks:
            upwards = tasks.create_task(_copy(reader, program.stdin), name="to the proxy")
            words = tasks.create_task(_last_line(program.stderr), name="complaints")
            answered = await _copy(program.stdout, writer)
            # Who ends well and has said nothing has had no answer: the proxy has left, and its successor may be asked.
            if not answered and (why := await words or _failed(argv[0], await program.wait())):
                writer.write(_failure(why))
            upwards.cancel()
    finally:
        with suppress(ProcessLookupError):
            program.kill()
        await program.wait()


def _failed(program: str, code: int) -> str:
    return f"{program} has ended with code {code}" if code else ""


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> int:
    """Copy until the end, which is passed on; returns how many bytes it were."""
    copied = 0
    with suppress(ConnectionError):
        while piece := await source.read(_PIECE):
            copied += len(piece)
            sink.write(piece)
            await sink.drain()
        if copied and sink.can_write_eof():
            sink.write_eof()
    return copied


async def _last_line(source: asyncio.StreamReader) -> str:
    lines = (await source.read()).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _failure(text: str) -> bytes:
    """What the admin API would say if it were the one that fails."""
    body = msgspec.json.encode({"error": text})
    head = f"HTTP/1.1 502 Bad Gateway\r\nServer: userproxy/{__version__}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
