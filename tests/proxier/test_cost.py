"""A change costs what changed; and what costs what there is leaves the loop to traffic in between."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import userproxy
from tests.proxier.test_proxier import HERE, Portals, World, a_service
from tests.turns import watched_turns
from userproxy import pace
from userproxy.model import LocalTraffic
from userproxy.proxier.proxier import Proxier
from userproxy.routing.selection import Locality
from userproxy.routing.services import Scope

SOURCE = str(Path(userproxy.__file__).parent)

MANY = 5_000
TURN = 0.02
"""Ten slices, and a tenth of what all of these Services take at once: seconds."""


@pytest.fixture
def world() -> World:
    return World()


def of_many(world: World, services: int) -> Proxier:
    world.put(*(a_service(f"s{number}", f"10.96.{number // 250}.{number % 250}") for number in range(services)))
    return Proxier(world, world, Portals(world), world, HERE)


@pytest.fixture
def proxier(world: World) -> Proxier:
    return of_many(world, MANY)


async def test_many_at_once_are_taken_in_slices(world: World, proxier: Proxier) -> None:
    async with watched_turns() as turns:
        assert await proxier.sync(verify=False)
        assert turns.longest < TURN
        proxier.set_node(Scope(locality=Locality("node-2")), LocalTraffic())
        assert await proxier.sync(verify=False)
        assert turns.longest < TURN
        world.addresses = frozenset({"192.0.2.10"})
        assert await proxier.sync(verify=True)
    assert turns.longest < TURN
    assert len(world.open_ports) == MANY


async def test_what_stands_is_noted_in_slices(world: World, proxier: Proxier, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched_turns() as turns:
        written: list[int] = []
        world.during_sync.append(lambda: written.append(turns.count))
        monkeypatch.setattr(pace, "SLICE_SECONDS", 0.0)
        assert await proxier.sync(verify=False)
        assert turns.count - written[0] > MANY
    assert proxier.programmed.keys() == proxier.service_ports


async def test_one_costs_the_same_however_many_there_are(world: World, proxier: Proxier) -> None:
    few = World()
    proxier_of_few = of_many(few, MANY // 10)
    await proxier.sync(verify=False)
    await proxier_of_few.sync(verify=False)
    for number in range(3):
        lines = await lines_of_one_more(proxier_of_few, few, number)
        assert await lines_of_one_more(proxier, world, number) == pytest.approx(lines, rel=0.05)


async def lines_of_one_more(proxier: Proxier, world: World, number: int) -> int:
    """How many lines of userproxy run for a Service that comes and another one that goes: those of loops each time."""
    lines = 0

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    def begin(frame: FrameType, event: str, _: Any) -> Any:
        return count if frame.f_code.co_filename.startswith(SOURCE) else None

    debugger = sys.gettrace()
    sys.settrace(begin)
    try:
        world.put(a_service(f"new-{number}", f"10.97.0.{number}", 30000 + number))
        assert await proxier.sync(verify=False)
        world.drop(f"s{number}")
        assert await proxier.sync(verify=False)
        assert await proxier.sync(verify=True)
    finally:
        sys.settrace(debugger)
    return lines
