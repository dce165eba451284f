"""Looks at the figures, once for all tabs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.admin.planes import Served, connection
from tests.dashboard.serving import figures, proxy
from userproxy.dashboard import collector as module
from userproxy.dashboard.collector import Collector, Reader
from userproxy.dashboard.figures.looks import Look, ServicePort, Want
from userproxy.dashboard.upstream import Upstream

WEB = ServicePort("default", "web", "http", "TCP")


@asynccontextmanager
async def looking(folder: Path) -> AsyncIterator[tuple[Collector, Served]]:
    async with proxy(folder) as api, Upstream(api.path) as upstream, asyncio.TaskGroup() as tasks:
        collector = Collector(upstream)
        task = tasks.create_task(collector.run())
        await asyncio.sleep(0)
        yield collector, api
        task.cancel()


async def seen(collector: Collector, reader: Reader, holds: Callable[[Look], bool]) -> Look:
    """The first look for which that holds."""
    while not (collector.look.number and holds(collector.look)):
        reader.woken.clear()
        await reader.woken.wait()
    return collector.look


async def test_nobody_is_asked_while_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINGER_SECONDS", 0.0)
    async with looking(tmp_path) as (collector, _):
        assert collector.look.number == 0
        with collector.reading(Want()) as reader:
            found = await seen(collector, reader, lambda look: bool(look.services))
            assert found.services.keys() == {WEB.key, "kube-system/dns/dns/UDP"}
        while collector.look.services:
            await asyncio.sleep(0.01)
        number = collector.look.number
        await asyncio.sleep(0.05)
        assert collector.look.number == number


async def test_rates_go_by_the_time_between_looks(tmp_path: Path) -> None:
    async with looking(tmp_path) as (collector, api):
        with collector.reading(Want()) as reader:
            first = await seen(collector, reader, lambda _: True)
            api.data.figures = (figures(total=1000),)
            look = await seen(collector, reader, lambda look: look.services[WEB.key]["total"] == 1000)
            assert look.services[WEB.key]["opened_rate"] == pytest.approx(1000 / look.seconds, rel=0.01)
            assert look.number > first.number
            assert collector.history.of(WEB.key)[0][-1] == look.services[WEB.key]["opened_rate"]


async def test_only_what_somebody_shows_is_read(tmp_path: Path) -> None:
    async with looking(tmp_path) as (collector, api):
        api.data.open = [connection(1)]
        with collector.reading(Want()) as reader:
            look = await seen(collector, reader, lambda _: True)
            assert (dict(look.details), dict(look.connections)) == ({}, {})
            with collector.reading(Want(WEB)) as other:
                look = await seen(collector, other, lambda look: WEB in look.details)
                assert [row["portal"] for row in look.details[WEB].portals] == ["10.96.0.10:80"]
                assert look.connections.keys() == {WEB}
            await seen(collector, reader, lambda look: WEB not in look.details)


async def test_tabs_that_show_the_same_have_one_watch(tmp_path: Path) -> None:
    async with looking(tmp_path) as (collector, api):
        with collector.reading(Want()) as first, collector.reading(Want()) as second:
            assert first.feed is second.feed
            while not api.data.decision_watches:
                await asyncio.sleep(0)
            with collector.reading(Want(served=True)) as third:
                assert third.feed is not first.feed
        while api.data.decision_watches:
            await asyncio.sleep(0)
        assert 1 <= api.data.watched <= 2


async def test_what_went_wrong_is_remembered_while_a_service_is_looked_at(tmp_path: Path) -> None:
    async with looking(tmp_path) as (collector, _):
        with collector.reading(Want()) as first:
            feed = first.feed
            other = collector.reading(Want(WEB))
            with other:
                pass
        with collector.reading(Want(WEB)):
            with collector.reading(Want()) as back:
                assert back.feed is not feed
                feed = back.feed
            with collector.reading(Want()) as back:
                assert back.feed is feed


async def test_all_connections_are_read_no_more_often_than_they_are_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with looking(tmp_path) as (collector, api):
        api.data.open = [connection(number) for number in range(1, 4)]
        with collector.reading(Want(connections=True)) as reader:
            look = await seen(collector, reader, lambda look: bool(look.connections.get(None)))
            assert look.connections[None].keys() == {1, 2, 3}
            monkeypatch.setattr(module, "_CONNECTIONS_SHARE", 1e9)
            api.data.open = []
            await seen(collector, reader, lambda look: not look.connections[None])
            api.data.open = [connection(9)]
            later = look.number + 2
            assert not (await seen(collector, reader, lambda look: look.number > later)).connections[None]


@pytest.mark.parametrize("status", [{}, {"controls": []}, {"controls": ["capture"]}])
async def test_what_may_not_be_changed_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: dict[str, Any]
) -> None:
    asked: list[str] = []
    items, get = Upstream.items, Upstream.get

    async def listed(upstream: Upstream, route: str, *arguments: Any) -> list[dict[str, Any]]:
        asked.append(route)
        return await items(upstream, route, *arguments)

    async def told(upstream: Upstream, route: str, *arguments: Any) -> dict[str, Any]:
        return status if route == "status" else await get(upstream, route, *arguments)

    monkeypatch.setattr(Upstream, "items", listed)
    monkeypatch.setattr(Upstream, "get", told)
    async with looking(tmp_path) as (collector, _):
        with collector.reading(Want()) as reader:
            look = await seen(collector, reader, lambda _: True)
            assert (look.trouble, look.status, look.drains, look.faults) == ("", status, (), ())
            assert set(asked) == {"services", "problems"}


async def test_an_answer_that_lacks_something_is_trouble_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = Upstream.items

    async def lacking(*_: Any) -> list[dict[str, Any]]:
        return [{"namespace": "default"}]

    async with looking(tmp_path) as (collector, _):
        with collector.reading(Want()) as reader:
            monkeypatch.setattr(Upstream, "items", lacking)
            look = await seen(collector, reader, lambda look: bool(look.trouble))
            assert look.trouble == "the proxy's answer is not what it should be (KeyError: 'name')"
            monkeypatch.setattr(Upstream, "items", items)
            collector.hurry()
            assert (await seen(collector, reader, lambda look: not look.trouble)).services
