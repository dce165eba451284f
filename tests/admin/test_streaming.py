"""Lists in pieces, and readers that do not keep up."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientResponse, ClientSession, web
from aiohttp.test_utils import RawTestServer
from msgspec import Struct

from tests.admin.planes import Events, connection, served
from tests.turns import watched_turns
from userproxy.admin.items import Change, Failure
from userproxy.admin.streaming import JSON, TOO_SLOW, SlowReaderError, told, write_changes, write_list


async def test_ten_thousand_connections_are_written_in_pieces(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.data.open = [connection(number) for number in range(1, 10_001)]
        async with watched_turns() as turns:
            reader, writer = await asyncio.open_unix_connection(os.fspath(api.path))
            writer.write(b"GET /v1/connections HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            size = 0
            while piece := await reader.read(65536):
                size += len(piece)
            writer.close()
        assert size > 2_500_000
        assert turns.longest < 0.02


async def test_a_reader_that_has_lost_something_gets_what_came_before_and_is_told_how_much_it_lost() -> None:
    events: Events[int] = Events(room=2)
    for each in range(5):
        events.tell(each)
    batches = told(events)
    assert await anext(batches) == (0, 1)
    with pytest.raises(SlowReaderError) as caught:
        await anext(batches)
    assert caught.value.lost == 3


@asynccontextmanager
async def answer_of(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AsyncIterator[ClientResponse]:
    async with (
        RawTestServer(handler) as server,
        ClientSession() as session,
        session.get(server.make_url("/")) as answer,
    ):
        yield answer


async def rows(count: int) -> AsyncGenerator[tuple[str, Struct], None]:
    for number in range(count):
        yield f"key {number}", Failure(f"item {number}")


@pytest.mark.parametrize(
    ("count", "limit", "items", "following"),
    [(0, None, 0, None), (0, 3, 0, None), (3, None, 3, None), (3, 3, 3, None), (4, 3, 3, "key 2")],
)
async def test_a_list_says_where_it_goes_on_and_only_if_it_does(
    count: int, limit: int | None, items: int, following: str | None
) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return await write_list(request, rows(count), limit, {"X-Of": "a test"})

    async with answer_of(handler) as answer:
        assert (answer.content_type, answer.headers["X-Of"]) == (JSON, "a test")
        expected = {"items": [{"error": f"item {n}"} for n in range(items)], "next": following}
        assert await answer.json() == expected


async def test_the_last_line_of_who_is_cut_off_says_so() -> None:
    async def changes() -> AsyncGenerator[list[Change[Failure]], None]:
        yield [Change("ADDED", Failure("one"))]
        raise SlowReaderError(7)

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return await write_changes(request, changes(), {})

    async with answer_of(handler) as answer:
        lines = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert lines == [
        {"type": "ADDED", "object": {"error": "one"}},
        {"type": "ERROR", "message": TOO_SLOW, "lost": 7},
    ]
