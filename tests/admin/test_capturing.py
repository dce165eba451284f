"""``/v1/capture`` over the admin socket."""

import asyncio
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.admin.pcapng.reader import read, streams
from tests.admin.pcapng.test_recording import data, ended, opened
from tests.admin.planes import Events, Served, served
from tests.forwarding.conftest import eventually
from userproxy.admin.capturing import MOST_CAPTURES
from userproxy.admin.client import AdminError, CutOffError
from userproxy.model import Endpoint
from userproxy.model.capture import CaptureEvent, CaptureRequest, Leg
from userproxy.model.reports import Query


async def begun(api: Served, count: int = 1) -> Events[CaptureEvent]:
    await eventually(lambda: len(api.data.captures) == count)
    return api.data.captures[-1]


def asking(api: Served, **parameters: Any) -> "asyncio.Future[list[dict[str, Any]]]":
    """All lines of a capture, asked for in a thread."""
    return asyncio.ensure_future(asyncio.to_thread(lambda: list(api.client.lines("capture", **parameters))))  # noqa: TID251


def file(api: Served, **parameters: Any) -> "asyncio.Future[bytes]":
    """The whole pcapng file of a capture."""
    ask: Callable[[], bytes] = lambda: b"".join(api.client.pieces("capture", form="pcapng", **parameters))  # noqa: E731
    return asyncio.ensure_future(asyncio.to_thread(ask))  # noqa: TID251


async def test_without_allow_capture_it_is_refused_in_a_sentence(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        with pytest.raises(AdminError, match=r"does not allow them: start it with --allow-capture$"):
            await asking(api)
        assert api.data.asked_for == []


async def test_lines_say_what_passes(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.may_capture = True
        lines = asking(api, namespace="default", endpoint="10.0.0.4:8080", payload_bytes=3, connections=1)
        events = await begun(api)
        for event in (opened(), data(Leg.CLIENT, b"\x00\xff", up=True), ended()):
            events.tell(event)
        begin, first, passed, end = await lines
        assert api.data.captures == []

    query = Query(namespace="default", endpoint=Endpoint("10.0.0.4", 8080))
    assert api.data.asked_for == [CaptureRequest(query, 3, 1)]
    assert begin == {"type": "CAPTURING"}
    assert first == {
        "type": "OPENED",
        "connection": 1,
        "time": "2023-11-14T22:13:20.750000Z",
        "service": "default/web",
        "port": "http",
        "protocol": "TCP",
        "client": "10.0.0.1:40001",
        "portal": "10.0.0.2:80",
        "node": "10.0.0.3:50001",
        "endpoint": "10.0.0.4:8080",
        "whole": True,
        "tried": [],
    }
    assert b64decode(passed.pop("data")) == b"\x00\xff"
    assert passed == {
        "type": "PASSED",
        "connection": 1,
        "time": "2023-11-14T22:13:21.000000Z",
        "leg": "client",
        "direction": "up",
        "kind": "data",
        "size": 2,
    }
    assert end["type"] == "ENDED"
    assert end["verdict"] == "served"


async def test_a_file_is_one_of_pcapng(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.may_capture = True
        content = file(api, connections=2)
        events = await begun(api)
        payload = bytes(range(256)) * 4000
        for event in (opened(), data(Leg.CLIENT, payload, up=True), ended(), opened(2), ended(connection=2)):
            events.tell(event)
        packets = read(await content).packets

    assert streams(packets)[("10.0.0.1", 40_001), ("10.0.0.2", 80)].data == payload
    assert packets[-1].comment.startswith("served")


async def test_it_ends_after_the_time_that_is_asked_for(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.may_capture = True
        assert await asking(api, seconds="0") == [{"type": "CAPTURING"}]
        assert len(read(await file(api, seconds="0.01")).interfaces) == 2


async def test_who_is_too_slow_is_told_so(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.may_capture = True
        api.data.room = 2
        lines, content = asking(api), file(api)
        await begun(api, 2)
        for events in api.data.captures:
            for _ in range(5):
                events.tell(opened())
        with pytest.raises(CutOffError, match="too slow"):
            await lines
        found = read(await content)

    assert [(number, lost) for number, lost, _ in found.statistics] == [(0, 3), (1, 3)]
    assert "too slow" in found.statistics[0][2]


async def test_a_capture_ends_when_its_reader_goes_and_only_so_many_run(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.may_capture = True
        writers = []
        for number in range(MOST_CAPTURES):
            reader, writer = await asyncio.open_unix_connection(api.path)
            writer.write(b"GET /v1/capture HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"CAPTURING" in await reader.readuntil(b"}")
            writers.append(writer)
            assert len(api.data.captures) == number + 1
        with pytest.raises(AdminError, match="4 captures are running already: end one of them"):
            await asking(api)
        for writer in writers:
            writer.close()
        await eventually(lambda: not api.data.captures)
        assert await asking(api, seconds="0") == [{"type": "CAPTURING"}]
