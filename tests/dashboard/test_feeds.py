"""Decisions as they fall."""

import asyncio
from pathlib import Path

from tests.admin.planes import ONE, WEB, Events
from tests.dashboard.serving import proxy
from userproxy.dashboard import feeds
from userproxy.dashboard.feeds import REMEMBERED, Feed
from userproxy.dashboard.figures.rates import Item
from userproxy.dashboard.upstream import Upstream
from userproxy.model import ListenerName
from userproxy.model.reports import Decision, Outcome, SocketAddress


def decision(number: int, verdict: Outcome = Outcome.SERVED) -> Decision:
    client = SocketAddress("10.2.0.9", 1024 + number)
    return Decision(1.7e9 + number, ListenerName(WEB), client, None, ONE, verdict, id=number)


def clients(items: list[Item]) -> list[str]:
    return [each["client"] for each in items]


async def _counted(feed: Feed, count: int) -> None:
    event = asyncio.Event()
    feed.woken.add(event)
    while feed.count < count:
        event.clear()
        await event.wait()
    feed.woken.discard(event)


async def test_the_past_comes_first_and_readers_are_told_of_what_follows(tmp_path: Path) -> None:
    async with proxy(tmp_path) as api, Upstream(api.path) as upstream, asyncio.TaskGroup() as tasks:
        api.data.made = [decision(1), decision(2)]
        feed = Feed(upstream, {"namespace": "default"}, lambda each: each["client"] != "10.2.0.9:1026")
        told: list[Item] = []
        feed.told.add(told.append)
        task = tasks.create_task(feed.run())
        await _counted(feed, 1)
        assert clients(feed.since(0)[0]) == ["10.2.0.9:1025"]
        while not api.data.decision_watches:
            await asyncio.sleep(0)
        api.data.decision_watches[0].tell(decision(3))
        await _counted(feed, 2)
        assert clients(feed.since(1)[0]) == ["10.2.0.9:1027"]
        assert clients(told) == ["10.2.0.9:1025", "10.2.0.9:1027"]
        assert feed.since(2) == ([], 0)
        task.cancel()


async def test_who_reads_seldom_is_told_how_much_is_missing(tmp_path: Path) -> None:
    async with proxy(tmp_path) as api, Upstream(api.path) as upstream, asyncio.TaskGroup() as tasks:
        feed = Feed(upstream, {}, lambda _: True)
        task = tasks.create_task(feed.run())
        while not api.data.decision_watches:
            await asyncio.sleep(0)
        for number in range(REMEMBERED + 7):
            api.data.decision_watches[0].tell(decision(number))
        await _counted(feed, REMEMBERED + 7)
        items, missing = feed.since(0)
        assert (len(items), missing) == (REMEMBERED, 7)
        task.cancel()


async def test_after_a_pause_nothing_comes_twice(tmp_path: Path) -> None:
    async with proxy(tmp_path) as api, Upstream(api.path) as upstream, asyncio.TaskGroup() as tasks:
        api.data.made = [decision(1)]
        feed = Feed(upstream, {}, lambda _: True)
        task = tasks.create_task(feed.run())
        await _counted(feed, 1)
        while not api.data.decision_watches:
            await asyncio.sleep(0)
        api.data.made = [decision(1), decision(2)]
        _cut_off(api.data.decision_watches[0])
        await _counted(feed, 2)
        assert "10.2.0.9:1026" in clients(list(feed.last))
        assert clients(list(feed.last)).count("10.2.0.9:1025") == 1
        task.cancel()


def _cut_off(watch: Events[Decision]) -> None:
    """Have a reader lose something."""
    watch._room = 0
    watch.tell(decision(9))


def test_what_is_shown_unless_told_is_what_went_wrong() -> None:
    assert set(feeds.NOT_SERVED) == {each.value for each in Outcome} - {"served"}
