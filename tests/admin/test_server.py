"""The admin API over its socket, asked by the client that commands have."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from tests.admin.planes import connection, served
from userproxy.admin import server
from userproxy.admin.client import AdminError
from userproxy.admin.server import AdminServer
from userproxy.dashboard.upstream import Upstream
from userproxy.model.data_plane import HandedOverError
from userproxy.model.reports import ConnectionPage, Query
from userproxy.sockets import NamedSockets


@pytest.mark.parametrize(
    ("route", "asked", "sentence"),
    [
        ("services", {"limit": 0}, "limit: '0' is not a number from 1 to 1000000"),
        ("services", {"colour": "red"}, "there is no parameter 'colour' here, only namespace, service, "),
        ("services", {"client": "10.0.0.1"}, "there is no parameter 'client' here"),
        ("services", {"service": "a/b"}, "service: 'a/b' is not the name of a Service, without its namespace"),
        ("version", {"limit": 1}, "there is no parameter 'limit' here, none at all"),
        ("connections", {"client": "10.0.0.300"}, "client: '10.0.0.300' is not an IP address"),
        (
            "connections",
            {"endpoint": "10.0.0.1:70000"},
            "endpoint: '10.0.0.1:70000' is not an endpoint such as 10.0.0.1",
        ),
        ("connections", {"state": "odd"}, "state: 'odd' is not one of dialing, held, open, half-closed, draining"),
        ("connections", {"after": "x"}, "after: 'x' is not the `next` of this list"),
        ("connections", {"limit": ["1", "2"]}, "limit is given twice"),
        ("nothing", {}, "there is no /v1/nothing here, but /v1/services, "),
    ],
)
async def test_bad_questions_are_answered_with_a_sentence(
    tmp_path: Path, route: str, asked: dict[str, str], sentence: str
) -> None:
    async with served(tmp_path) as api:
        with pytest.raises(AdminError) as caught:
            await api.get(route, **asked)
        assert str(caught.value).startswith(sentence)


async def test_objects(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        assert (await api.get("version"))["api"] == "v1"
        assert (await api.get("status"))["in_sync"] is True
        assert (await api.get("configuration"))["userproxy"] == {"at_stop": "remove"}
        assert "/v1/connections" in (await api.get("openapi.json"))["paths"]


async def test_who_asks_a_process_that_hands_over_is_to_ask_again_by_another_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handed_over(*_: object) -> ConnectionPage:
        raise HandedOverError

    async with served(tmp_path) as api:
        with monkeypatch.context() as for_now:
            for_now.setattr(api.data, "connections", handed_over)
            reader, writer = await asyncio.open_unix_connection(api.path)
            writer.write(b"GET /v1/connections HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 0\r\n" in answer
            assert answer.endswith(b'{"error":"another userproxy has just taken over from this one: ask again"}')
        assert await api.items("connections") == []


async def test_a_predecessor_that_is_to_hand_its_socket_over_is_not_asked_for_it_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_TRY_EVERY_PREDECESSOR", 0.001)
    monkeypatch.setattr(server, "_LOOKS", 100_000)
    path, sockets = tmp_path / "admin.sock", NamedSockets()
    sockets.are_awaited = True
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(0)
        successor = AdminServer(path, cast(Any, None), cast(Any, None), lambda: True, sockets=sockets)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(successor.run(), name="admin")
            for _ in range(20):
                await asyncio.sleep(0.002)
            listening.accept()[0].close()
            with pytest.raises(BlockingIOError):
                listening.accept()
            name = f"unix {path}"
            sockets.inherit(name, os.dup(listening.fileno()))
            while name not in sockets.open_ones():
                await asyncio.sleep(0.001)
            task.cancel()


def leaving(calls: list[int]) -> Callable[..., Coroutine[Any, Any, ConnectionPage]]:
    """Tells of the first of 600 connections, and is taken over before the next ones are asked for; then of all."""

    async def connections(_query: Query, limit: int, after: int) -> ConnectionPage:
        calls.append(after)
        if len(calls) == 2:
            raise HandedOverError
        page = tuple(connection(number) for number in range(after + 1, min(after + limit, 600) + 1))
        return ConnectionPage(page, page[-1].id if page[-1].id < 600 else None)

    return connections


async def test_a_list_that_breaks_off_since_a_successor_serves_is_asked_for_again_and_nothing_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as api, Upstream(api.path) as upstream:
        for items in (api.items, upstream.items):
            calls: list[int] = []
            monkeypatch.setattr(api.data, "connections", leaving(calls))
            with structlog.testing.capture_logs() as logs:
                assert len(await items("connections")) == 600
            assert len(calls) > 2
            assert [each for each in logs if each["log_level"] == "error"] == []
