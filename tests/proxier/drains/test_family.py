"""Drains as a proxier hands them out."""

import asyncio

import pytest
from msgspec import structs

from tests.proxier.test_following import with_endpoints
from tests.proxier.test_proxier import HERE, WEB, WEB_LISTENER, Portals, World, a_service
from userproxy.model import Endpoint, IPFamily, ServiceState
from userproxy.model.steering import Drain
from userproxy.proxier.drains.family import FamilyDrains
from userproxy.proxier.drains.table import DrainTable, Named
from userproxy.proxier.proxier import Proxier

A, B, C = (Endpoint(f"10.0.0.{number}", 8080) for number in (2, 3, 4))


class Drained:
    """A proxier with drains, and what it has been told that changed."""

    def __init__(self) -> None:
        self.world = World()
        self.table = DrainTable(asyncio.get_running_loop())
        self.asked = 0
        drains = FamilyDrains(self.table, self._ask)
        self.proxier = Proxier(self.world, self.world, Portals(self.world), self.world, HERE, drains=drains)
        self.web = with_endpoints(a_service("web", "10.96.0.1"), "10.0.0.2", "10.0.0.3")

    def _ask(self) -> None:
        self.asked += 1

    async def begin(self, seconds: float | None = None) -> None:
        service = structs.replace(self.web.service, close_removed_after=seconds)
        self.web = ServiceState(service, self.web.slices)
        self.world.put(self.web)
        await self.proxier.sync(verify=False)

    async def follow(self, *addresses: str) -> None:
        if addresses:
            self.web = with_endpoints(self.web, *addresses)
            self.world.put(self.web)
        assert await self.proxier.follow(), "no rule has to change"

    def drain(self, endpoint: Endpoint = A) -> None:
        self.table.put(Drain(WEB.service, endpoint, 0.0, 0.0))

    def endpoints(self) -> tuple[Endpoint, ...]:
        return self.world.routes[WEB_LISTENER].endpoints

    def draining(self) -> tuple[Endpoint, ...]:
        return self.world.routes[WEB_LISTENER].draining

    def known(self) -> tuple[Endpoint, ...] | None:
        return self.world.routes[WEB_LISTENER].known


@pytest.fixture
async def drained() -> Drained:
    return Drained()


async def test_a_drain_is_followed_at_once_and_without_other_rules(drained: Drained) -> None:
    await drained.begin()
    drained.drain()
    assert drained.asked == 1
    await drained.follow()
    assert (drained.endpoints(), drained.draining()) == ((B,), (A,))
    await drained.follow("10.0.0.2", "10.0.0.3", "10.0.0.4")
    assert (drained.endpoints(), drained.draining()) == ((B, C), (A,))
    drained.table.end(WEB.service)
    await drained.follow()
    assert (drained.endpoints(), drained.draining(), drained.world.syncs) == ((A, B, C), (), 1)


async def test_the_last_one_serves_although_it_is_drained(drained: Drained) -> None:
    await drained.begin()
    drained.drain(A)
    drained.drain(B)
    await drained.follow()
    assert drained.endpoints() == (A, B)
    await drained.follow("10.0.0.2")
    assert drained.endpoints() == (A,)
    await drained.follow("10.0.0.2", "10.0.0.4")
    assert drained.endpoints() == (C,)


async def test_a_drain_of_before_counts_for_a_service_that_comes(drained: Drained) -> None:
    drained.drain()
    await drained.begin()
    assert drained.endpoints() == (B,)


async def test_the_reason_is_told(drained: Drained) -> None:
    await drained.begin()
    drained.drain()
    await drained.follow()
    reports = drained.proxier.endpoints(WEB, drained.web)
    assert [(each.endpoint, each.usable, each.reason) for each in reports] == [
        (A, False, "drained on request"),
        (B, True, ""),
    ]


async def test_clients_of_who_is_removed_stay_as_long_as_the_service_says(drained: Drained) -> None:
    await drained.begin(0.05)
    assert drained.known() == (A, B)
    await drained.follow("10.0.0.3")
    assert (drained.endpoints(), drained.known(), drained.draining()) == ((B,), (A, B), (A,))
    over = asyncio.Event()
    drained.table.subscribe(over.set)
    await over.wait()
    await drained.follow()
    assert (drained.known(), drained.draining()) == ((B,), ())


async def test_who_comes_back_in_time_has_not_left(drained: Drained) -> None:
    await drained.begin(3600.0)
    await drained.follow("10.0.0.3")
    await drained.follow("10.0.0.2", "10.0.0.3")
    assert (drained.endpoints(), drained.known(), drained.draining()) == ((A, B), (A, B), ())
    assert not drained.table.leaving(WEB)
    drained.table.shut_down()


@pytest.mark.parametrize("is_early", [False, True])
async def test_a_successor_knows_who_has_left_while_it_took_over(drained: Drained, *, is_early: bool) -> None:
    """Whether or not it has heard of the Service before it is told of the drains."""
    await drained.begin(3600.0)
    successor = Drained()
    successor.web = with_endpoints(successor.web, "10.0.0.3")
    if is_early:
        await successor.begin(3600.0)
    successor.table.restore(drained.table.state())
    if is_early:
        await successor.follow()
    else:
        await successor.begin(3600.0)
    assert (successor.endpoints(), successor.known(), successor.draining()) == ((B,), (A, B), (A,))
    for each in (drained, successor):
        each.table.shut_down()


async def test_what_slices_name_is_remembered_only_where_clients_may_stay(drained: Drained) -> None:
    await drained.begin(3600.0)
    assert drained.table.state().named == (Named(WEB, IPFamily.IPV4, (A, B), 3600.0),)
    await drained.begin(0.0)
    assert drained.table.state().named == ()
    await drained.begin(3600.0)
    drained.world.drop("web")
    await drained.proxier.sync(verify=False)
    assert drained.table.state().named == ()


async def test_without_time_they_are_closed_at_once(drained: Drained) -> None:
    await drained.begin(0.0)
    await drained.follow("10.0.0.3")
    assert (drained.known(), drained.draining()) == ((B,), ())


async def test_a_service_that_goes_leaves_nothing(drained: Drained) -> None:
    await drained.begin(3600.0)
    await drained.follow("10.0.0.3")
    assert drained.table.leaving(WEB)
    drained.world.drop("web")
    await drained.proxier.sync(verify=False)
    assert not drained.table.leaving(WEB)
    drained.table.shut_down()
