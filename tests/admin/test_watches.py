"""Watches: what there is, then what changes, and the end of a reader that is too slow."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.admin.planes import DNS, ONE, TWO, WEB, Served, connection, decision, served
from userproxy.admin import streaming, watches
from userproxy.admin.client import AdminError, CutOffError
from userproxy.model.reports import ChangeKind, ConnectionChange


class Lines:
    """The body of a watch, without the frames of HTTP's chunks: they begin with a number, lines with a brace."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def next(self) -> dict[str, Any]:
        while True:
            line = await self._reader.readline()
            if not line:
                return {}
            if line.startswith(b"{"):
                found: dict[str, Any] = msgspec.json.decode(line)
                return found


@asynccontextmanager
async def watching(api: Served, route: str) -> AsyncIterator[Lines]:
    reader, writer = await asyncio.open_unix_connection(os.fspath(api.path))
    separator = "&" if "?" in route else "?"
    writer.write(f"GET /v1/{route}{separator}watch=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    try:
        yield Lines(reader)
    finally:
        writer.close()


def change(kind: ChangeKind, number: int) -> ConnectionChange:
    return ConnectionChange(kind, connection(number))


async def test_connections(tmp_path: Path) -> None:
    async with served(tmp_path) as api, watching(api, "connections") as lines:
        api.data.open = [connection(1)]
        assert (await lines.next())["object"]["id"] == 1
        assert await lines.next() == {"type": "SYNCED", "object": None}
        (events,) = api.data.connection_watches
        for kind in ChangeKind:
            events.tell(change(kind, 2))
        assert [(await lines.next())["type"] for _ in range(3)] == ["ADDED", "MODIFIED", "DELETED"]


async def test_decisions_of_the_past_come_first_and_none_twice(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.data.made = [decision(number) for number in range(5)]
        async with watching(api, "decisions?last=2") as lines:
            assert [(await lines.next())["object"]["time"][17:19] for _ in range(2)] == ["23", "24"]
            assert (await lines.next())["type"] == "SYNCED"
            (events,) = api.data.decision_watches
            events.tell(decision(4))
            events.tell(decision(5))
            assert (await lines.next())["object"]["time"] == "2023-11-14T22:13:25.000000Z"


@pytest.mark.parametrize("route", ["services", "endpoints", "portals"])
async def test_lists_of_which_nobody_tells_are_looked_at_again(
    tmp_path: Path, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "_LOOK_SECONDS", 0.0)
    async with served(tmp_path) as api:
        api.control.add(WEB, ONE)
        async with watching(api, route) as lines:
            assert [(await lines.next())["type"] for _ in range(2)] == ["ADDED", "SYNCED"]
            api.control.add(DNS, TWO)
            assert (await lines.next())["type"] == "ADDED"
            if route == "services":
                api.control.add(WEB, ONE, TWO)
                assert (await lines.next())["object"]["endpoints"] == {"usable": 2, "all": 2}
            api.control.ports.clear()
            assert {(await lines.next())["type"] for _ in range(2)} == {"DELETED"}


async def test_a_client_that_goes_ends_its_watch(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        async with watching(api, "connections") as lines:
            await lines.next()
            assert len(api.data.connection_watches) == 1
        while api.data.connection_watches:
            await asyncio.sleep(0)


async def test_a_reader_that_has_missed_something_is_told_so_and_no_more(tmp_path: Path) -> None:
    async with served(tmp_path) as api, watching(api, "connections") as lines:
        api.data.room = 10
        assert (await lines.next())["type"] == "SYNCED"
        (events,) = api.data.connection_watches
        for number in range(1, 16):
            events.tell(change(ChangeKind.ADDED, number))
        assert [(await lines.next())["object"]["id"] for _ in range(10)] == list(range(1, 11))
        assert await lines.next() == {
            "type": "ERROR",
            "message": "this reader was too slow, and is told no more: ask again, for less",
            "lost": 5,
        }
        while api.data.connection_watches:
            await asyncio.sleep(0)


async def test_a_stopped_reader_is_cut_off_and_finds_that_out_when_it_reads_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_STALLED_SECONDS", 0.2)
    async with served(tmp_path) as api, watching(api, "connections") as lines:
        assert (await lines.next())["type"] == "SYNCED"
        (events,) = api.data.connection_watches
        number = 0
        while api.data.connection_watches:  # what it does not read fills all buffers, and then it is cut off
            for _ in range(100):
                number += 1
                events.tell(change(ChangeKind.ADDED, number))
            await asyncio.sleep(0)
        seen = 0
        while (line := await lines.next())["type"] != "ERROR":
            seen += 1
        assert 0 < seen < number
        assert line["message"].startswith("this reader was too slow")


async def test_a_stopped_reader_that_never_reads_again_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_STALLED_SECONDS", 0.1)
    monkeypatch.setattr(streaming, "_LINGER_SECONDS", 0.1)
    async with served(tmp_path) as api:
        api.data.open = [connection(number) for number in range(1, 20_001)]
        reader, writer = await asyncio.open_unix_connection(os.fspath(api.path), limit=1024)
        writer.write(b"GET /v1/connections?watch=true HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readline()
        while not api.data.watched or api.data.connection_watches:
            await asyncio.sleep(0)
        while any(task.get_name() == "write an answer" for task in asyncio.all_tasks()):
            await asyncio.sleep(0)
        got = b""
        with suppress(ConnectionError):  # the end of what is broken off may also look like one in order
            while piece := await reader.read(65536):
                got = piece
        assert b"ERROR" not in got
        writer.close()


async def test_the_client_raises_when_it_is_cut_off_and_when_the_proxy_ends(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.data.room = 1

        def follow() -> list[str]:
            seen: list[str] = []
            try:
                seen.extend(each["type"] for each in api.client.watch("connections"))
            except CutOffError as error:
                seen.append(f"lost {error.lost}")
            return seen

        task = asyncio.get_running_loop().run_in_executor(None, follow)
        while not api.data.connection_watches:
            await asyncio.sleep(0)
        for number in range(1, 4):
            api.data.connection_watches[0].tell(change(ChangeKind.ADDED, number))
        assert await task == ["SYNCED", "ADDED", "lost 2"]

    def after_the_end() -> None:
        list(api.client.watch("connections"))

    with pytest.raises(AdminError, match="there is no socket"):
        await asyncio.to_thread(after_the_end)
