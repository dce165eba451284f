"""The search for a better driver while another one serves."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from userproxy.portals.drivers import DRIVERS
from userproxy.portals.interface import PortalDriver
from userproxy.wiring.better_portals import follow_better

IPTABLES, NFTABLES, LOCAL = (DRIVERS[name] for name in ("iptables", "nftables", "local"))


class Kernel:
    """Which drivers work is as `works` says; keeps what was moved to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *works: type[PortalDriver]) -> None:
        self.works = set(works)
        self.asked = 0
        self.moved: list[str] = []
        self.refuses = False
        for driver in (IPTABLES, NFTABLES, LOCAL):
            monkeypatch.setattr(driver, "unusable", self._answer(driver))

    def _answer(self, driver: type[PortalDriver]) -> Callable[[object], str | None]:
        def unusable(_family: object) -> str | None:
            self.asked += 1
            return None if driver in self.works else "not today"

        return unusable

    async def move(self, kind: type[PortalDriver]) -> bool:
        self.moved.append(kind.name)
        return not self.refuses

    async def asked_again(self, times: int) -> None:
        goal = self.asked + times
        while self.asked < goal:
            await asyncio.sleep(0.001)


async def during(search: Coroutine[Any, Any, None], scenario: Coroutine[Any, Any, None]) -> list[str]:
    """What was logged, as warning and otherwise."""
    with capture_logs() as logs:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            task = group.create_task(search, name="search")
            await scenario
            task.cancel()
    return [entry["event"] for entry in logs]


async def test_the_better_one_is_moved_to_once_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, NFTABLES)

    async def scenario() -> None:
        await kernel.asked_again(3)
        assert kernel.moved == []
        kernel.works.add(IPTABLES)
        while not kernel.moved:
            await asyncio.sleep(0.001)

    told = await during(follow_better(NFTABLES, 0.001, kernel.move), scenario())
    assert (kernel.moved, told) == (["iptables"], ["Portals: iptables from now on, which works by now"])


async def test_a_move_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, NFTABLES, IPTABLES)
    kernel.refuses = True

    async def scenario() -> None:
        while len(kernel.moved) < 3:
            await asyncio.sleep(0.001)

    assert await during(follow_better(NFTABLES, 0.001, kernel.move), scenario()) == []


async def test_one_that_listens_elsewhere_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, LOCAL, NFTABLES)
    told = await during(follow_better(LOCAL, 0.001, kernel.move), kernel.asked_again(6))
    assert (kernel.moved, told) == ([], ["Portals: nftables works by now, and a restart takes it"])


async def test_with_the_best_one_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, IPTABLES)
    async with asyncio.timeout(20):
        await follow_better(IPTABLES, 0.001, kernel.move)
    assert kernel.asked == 0
