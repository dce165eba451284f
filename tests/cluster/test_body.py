"""Bodies of answers from a real server, on both event loops, with and without TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from itertools import accumulate, pairwise
from random import Random

import aiohttp
import pytest
import trustme

from userproxy.cluster.body import PIECE, Body, whole_chunk
from userproxy.processes.loops import loop_factory

LARGE = bytes(range(256)) * 20_000

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class TranslatedError(Exception):
    """What is raised in place of aiohttp's errors."""


class Server:
    """Answers each request as it is told, and counts connections."""

    def __init__(self, answer: Answer) -> None:
        self.connections = 0
        self.tasks: set[asyncio.Task[None] | None] = set()
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await self._answer(writer)
                await writer.drain()
        with suppress(OSError, asyncio.CancelledError):
            writer.close()
            await writer.wait_closed()

    async def end(self) -> None:
        """Hang up on everybody."""
        for task in filter(None, self.tasks):
            task.cancel()
            await task


@asynccontextmanager
async def session(answer: Answer, authority: trustme.CA | None = None) -> AsyncIterator[tuple[Server, "Get"]]:
    """A server, and what requests something of it."""
    served, context = Server(answer), None
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0, ssl=context)
    url = f"{'http' if context is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    trusted = ssl.create_default_context()
    if authority is not None:
        authority.configure_trust(trusted)
    async with aiohttp.ClientSession() as client:
        yield served, lambda: client.get(url, ssl=trusted, timeout=aiohttp.ClientTimeout(total=None, sock_read=30.0))
    server.close()
    await served.end()


Get = Callable[[], Awaitable[aiohttp.ClientResponse]]


class WatchedBody(Body):
    """One that tells when something has arrived."""

    def __init__(
        self, response: aiohttp.ClientResponse, idle_timeout: float, translate: Callable[[Exception], Exception]
    ) -> None:
        self.arrived = asyncio.Event()
        super().__init__(response, idle_timeout, translate)

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self.arrived.set()

    def receive(self, data: bytes) -> None:
        """As if just this had arrived."""
        self.get_buffer(-1)[: len(data)] = data
        self.buffer_updated(len(data))


@asynccontextmanager
async def body_of(get: Get, idle_timeout: float = 30.0) -> AsyncIterator[tuple["WatchedBody", aiohttp.StreamReader]]:
    """The body of what is requested, and what aiohttp has parsed of it."""
    response = await get()
    with closing(response), closing(WatchedBody(response, idle_timeout, _translated)) as body:
        yield body, response.content


def _translated(error: Exception) -> Exception:
    return TranslatedError(type(error).__name__)


def whole(content: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    return answer


def chunks(queue: asyncio.Queue[bytes]) -> Answer:
    """An answer in chunks, each of which is what a queue has."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while piece := await queue.get():
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n")

    return answer


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_body_comes_in_pieces_and_the_connection_is_used_again(loop: str, tls: bool) -> None:
    async def read() -> None:
        async with session(whole(LARGE), trustme.CA() if tls else None) as (server, get):
            for _ in range(2):
                async with body_of(get) as (body, _content):
                    pieces = [piece async for piece in body]
                assert max(map(len, pieces)) <= PIECE
                assert b"".join(pieces) == LARGE
            plain = await get()
            assert await plain.read() == LARGE, "one that is read by aiohttp alone"
            assert server.connections == 1

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(read())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_nobody_takes_stays_in_the_kernel(loop: str) -> None:
    async def read() -> None:
        async with session(whole(LARGE)) as (_, get), body_of(get) as (body, content):
            read_before = content.total_bytes  # by aiohttp, together with the head
            await anext(body)
            for _ in range(100):
                await asyncio.sleep(0.001)
            assert content.total_bytes <= read_before + 3 * PIECE
            assert len(LARGE) - PIECE == sum([len(piece) async for piece in body])

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(read())


async def test_what_comes_while_the_next_piece_is_waited_for_may_be_taken_at_once() -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    taken: asyncio.Queue[bytes] = asyncio.Queue()

    def take(piece: bytes) -> bool:
        if piece == b"not this":
            return False
        taken.put_nowait(piece)
        return True

    async with session(chunks(told)) as (_, get), asyncio.TaskGroup() as group, body_of(get) as (body, _content):
        body.take = take
        waiting = group.create_task(body.__anext__(), name="next")
        for piece in (b"one", b"two"):
            told.put_nowait(piece)
            assert await taken.get() == piece
        assert not waiting.done()
        told.put_nowait(b"not this")
        assert await waiting == b"not this"
        body.arrived.clear()
        told.put_nowait(b"while nobody waits")
        await body.arrived.wait()
        assert await anext(body) == b"while nobody waits"
        assert taken.empty()


async def test_what_cannot_be_taken_is_raised_where_it_is_waited_for() -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()

    def take(_piece: bytes) -> bool:
        raise ZeroDivisionError

    async with session(chunks(told)) as (_, get), body_of(get) as (body, _content):
        body.take = take
        asyncio.get_running_loop().call_later(0.1, told.put_nowait, b"one")
        with pytest.raises(ZeroDivisionError):
            await anext(body)


async def test_a_silent_server_is_given_up_and_one_that_speaks_is_not() -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    async with session(chunks(told)) as (_, get), body_of(get, idle_timeout=0.5) as (body, _content):
        for _ in range(15):
            asyncio.get_running_loop().call_later(0.1, told.put_nowait, b"one")
            assert await anext(body) == b"one"
        with pytest.raises(TranslatedError, match="SocketTimeoutError"):
            await anext(body)


async def test_a_body_that_breaks_off_is_no_whole_one() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.")
        await writer.drain()
        writer.close()

    async with session(answer) as (_, get), body_of(get) as (body, _content):
        assert await anext(body) == b"five."
        with pytest.raises(TranslatedError, match="ClientPayloadError"):
            await anext(body)


async def test_a_body_that_came_with_its_head() -> None:
    async with session(whole(b"all of it")) as (_, get), body_of(get) as (body, _content):
        assert [piece async for piece in body] == [b"all of it"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_whole_chunks_are_parsed_by_aiohttp_only_until_one_of_them_was(loop: str, tls: bool) -> None:
    async def read() -> None:
        told: asyncio.Queue[bytes] = asyncio.Queue()
        async with (
            session(chunks(told), trustme.CA() if tls else None) as (_, get),
            body_of(get) as (body, content),
        ):
            for number in range(20):
                told.put_nowait(b"line %d" % number)
                assert await anext(body) == b"line %d" % number
            assert content.total_bytes <= 2 * len(b"line 0"), "the first may have come with the head"
            told.put_nowait(b"")
            with pytest.raises(StopAsyncIteration):
                await anext(body)

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(read())


async def test_a_body_is_the_same_wherever_its_bytes_are_cut() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    random = Random(21)
    async with session(answer) as (_, get):
        for _ in range(150):
            contents = [_content(random) for _ in range(random.randrange(1, 12))]
            sent = [b"%x\r\n%b\r\n" % (len(each), each) for each in (*contents, b"")]
            between = [each for each in accumulate(map(len, sent), initial=0) if random.random() < 0.9]
            length = sum(map(len, sent))
            cuts = sorted({0, *between, *random.choices(range(length), k=random.randrange(4)), length})
            async with body_of(get) as (body, _content_of_aiohttp):
                for begin, end in pairwise(cuts):
                    body.receive(b"".join(sent)[begin:end])
                assert b"".join([piece async for piece in body]) == b"".join(contents)


def _content(random: Random) -> bytes:
    """What looks like lines or chunks."""
    return random.choice([b'{"a":1}\n', b"x", b"3\r\nabc\r\n", b"0\r\n\r\n", b"\r\n", b"1\r\n", b"a" * 300])


async def test_a_body_of_known_length_that_looks_like_chunks_is_none_of_them() -> None:
    content = b"3\r\nabc\r\n" * 3

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))

    async with session(answer) as (_, get), body_of(get) as (body, _content):
        for _ in range(3):
            body.receive(b"3\r\nabc\r\n")
        assert b"".join([piece async for piece in body]) == content


async def test_what_cannot_be_taken_is_raised_before_what_came_after_it() -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()

    def take(piece: bytes) -> bool:
        raise ZeroDivisionError(piece)

    async with session(chunks(told)) as (_, get), asyncio.TaskGroup() as group, body_of(get) as (body, _content):
        body.take = take
        waiting = group.create_task(_failure(body), name="next")
        await asyncio.sleep(0)
        for each in (b"one", b"two", b"three"):
            body.receive(b"%x\r\n%b\r\n" % (len(each), each))
        assert str(await waiting) == "b'one'"


async def _failure(body: Body) -> ZeroDivisionError:
    with pytest.raises(ZeroDivisionError) as caught:
        await anext(body)
    return caught.value


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"3\r\nabc\r\n", b"abc"),
        (b"12\r\n" + b"x" * 18 + b"\r\n", b"x" * 18),
        (b"a\r\n0123456789\r\n", b"0123456789"),
        (b"A\r\n0123456789\r\n", b""),
        (b"03\r\nabc\r\n", b""),
        (b"3;name=value\r\nabc\r\n", b""),
        (b"3\r\nabc\r\n3\r\nabc\r\n", b""),
        (b"3\r\nab", b""),
        (b"0\r\n\r\n", b""),
        (b"\r\n", b""),
        (b"", b""),
    ],
)
def test_whole_chunk(data: bytes, content: bytes) -> None:
    assert whole_chunk(data) == content
