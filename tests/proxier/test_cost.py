"""A change costs what changed; and what costs what there is leaves the loop to traffic in between."""

import time

import pytest

from tests.proxier.test_proxier import HERE, Portals, World, a_service
from tests.turns import watched_turns
from userproxy.model import LocalTraffic
from userproxy.proxier.proxier import Proxier
from userproxy.routing.selection import Locality
from userproxy.routing.services import Scope

MANY = 5_000
TURN = 0.02
"""Ten slices, and a tenth of what all of these Services take at once: seconds."""


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def proxier(world: World) -> Proxier:
    world.put(*(a_service(f"s{number}", f"10.96.{number // 250}.{number % 250}") for number in range(MANY)))
    return Proxier(world, world, Portals(world), world, HERE)


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


async def test_one_costs_the_same_however_many_there_are(world: World, proxier: Proxier) -> None:
    await proxier.sync(verify=False)
    costs = []
    for number in range(10):
        began = time.thread_time()
        world.put(a_service(f"new-{number}", f"10.97.0.{number}", 30000 + number))
        assert await proxier.sync(verify=False)
        world.drop(f"s{number}")
        assert await proxier.sync(verify=False)
        assert await proxier.sync(verify=True)
        costs.append(time.thread_time() - began)
    assert min(costs) < 0.005, "all of them at once take a hundred times as long"
