"""Which endpoints are drained, and until when."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from userproxy.model import Endpoint, Protocol, ServiceName, ServicePortName
from userproxy.model.steering import Drain
from userproxy.proxier.drains.table import MOST_DRAINS, MOST_LEAVING, SLACK, DrainTable, TooManyDrainsError

WEB = ServiceName("default", "web")
API = ServiceName("default", "api")
PORT = ServicePortName("default", "web", "http", Protocol.TCP)
A, B = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A loop whose time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[tuple[float, Callable[[], None], Handle]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Any:
        handle = Handle()
        self.calls.append((when, call, handle))
        return handle

    def until(self, now: float) -> None:
        while due := [each for each in self.calls if each[0] <= now and not each[2].cancelled]:
            first = min(due, key=lambda each: each[0])
            self.calls.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = now


class Drains:
    def __init__(self) -> None:
        self.loop = Loop()
        self.closed: list[Drain] = []
        loop: Any = self.loop
        self.table = DrainTable(loop, self.closed.append)
        self.told = 0
        self.changes = self.table.subscribe(self._tell)

    def _tell(self) -> None:
        self.told += 1

    def drain(self, endpoint: Endpoint = A, service: ServiceName = WEB, **terms: float) -> Drain:
        found = Drain(service, endpoint, self.loop.now, 1.7e9, **terms)
        self.table.put(found)
        return found


@pytest.fixture
def drains() -> Drains:
    return Drains()


def test_a_drain_lasts_until_it_is_ended(drains: Drains) -> None:
    drain = drains.drain()
    assert (drains.table.all(), list(drains.table.of(WEB)), list(drains.table.of(API))) == ([drain], [A], [])
    assert list(drains.changes.take()) == [WEB]
    drains.loop.until(1e6)
    assert (drains.table.all(), list(drains.changes.take())) == ([drain], [])
    assert drains.table.end(WEB, B) == []
    assert drains.told == 1
    assert drains.table.end(WEB, A) == [drain]
    assert (drains.table.all(), list(drains.changes.take()), drains.told) == ([], [WEB], 2)


def test_it_is_over_in_time_and_closes_once(drains: Drains) -> None:
    drain = drains.drain(until=160.0, closes_at=130.0)
    drains.loop.until(129.9)
    assert drains.closed == []
    drains.loop.until(130.0)
    assert drains.closed == [drain]
    assert [each.closes_at for each in drains.table.all()] == [None]
    drains.loop.until(159.9)
    assert len(drains.table.all()) == 1
    drains.loop.until(160.0)
    assert (drains.table.all(), drains.closed) == ([], [drain])


def test_one_who_fails_to_hear_of_a_drain_costs_no_other_drain_its_time(drains: Drains) -> None:
    def fail() -> None:
        if len(drains.table.all()) == 1:
            raise ValueError("a bug")

    drains.drain(until=110.0)
    drains.drain(B, until=120.0)
    drains.table.subscribe(fail)
    with pytest.raises(ValueError, match="a bug"):
        drains.loop.until(110.0)
    drains.loop.until(120.0)
    assert drains.table.all() == []


def test_other_terms_take_the_place_of_those_before(drains: Drains) -> None:
    drains.drain(until=110.0, closes_at=105.0)
    drains.drain(until=200.0)
    drains.loop.until(150.0)
    assert (len(drains.table.all()), drains.closed) == (1, [])
    drains.drain(until=151.0)
    drains.drain(B, until=152.0)
    drains.loop.until(151.5)
    assert [each.endpoint for each in drains.table.all()] == [B]


def test_one_that_was_ended_and_begun_again_is_not_ended_by_the_timer_of_the_first(drains: Drains) -> None:
    drains.drain(until=110.0)
    drains.table.end(WEB)
    drains.drain()
    drains.loop.until(1000.0)
    assert len(drains.table.all()) == 1


def test_all_drains_of_a_service_are_ended_at_once(drains: Drains) -> None:
    found = [drains.drain(A), drains.drain(B)]
    kept = drains.drain(A, API)
    assert drains.table.end(WEB) == found
    assert drains.table.all() == [kept]


def test_there_is_an_end_to_drains(drains: Drains) -> None:
    for number in range(MOST_DRAINS):
        drains.drain(Endpoint("10.0.0.1", number + 1))
    with pytest.raises(TooManyDrainsError, match="1000 endpoints are drained already"):
        drains.drain(B)
    drains.drain(Endpoint("10.0.0.1", 1), until=1e9)
    drains.table.end(WEB, Endpoint("10.0.0.1", 2))
    drains.drain(B)
    assert len(drains.table.all()) == MOST_DRAINS


def test_clients_of_who_leaves_stay_for_a_while(drains: Drains) -> None:
    drains.table.leave(PORT, [A], 30.0)
    drains.loop.until(110.0)
    drains.table.leave(PORT, [A, B], 30.0)
    assert set(drains.table.leaving(PORT)) == {A, B}
    drains.changes.take()
    drains.loop.until(130.0)
    assert (set(drains.table.leaving(PORT)), list(drains.changes.take())) == ({B}, [WEB])
    drains.table.returned(PORT, [B])
    assert not drains.table.leaving(PORT)
    drains.loop.until(1000.0)
    assert list(drains.changes.take()) == []


def test_who_leaves_again_has_all_the_time_again(drains: Drains) -> None:
    drains.table.leave(PORT, [A], 30.0)
    drains.loop.until(120.0)
    drains.table.returned(PORT, [A])
    drains.table.leave(PORT, [A], 30.0)
    drains.loop.until(140.0)
    assert set(drains.table.leaving(PORT)) == {A}
    drains.table.forget(PORT)
    assert not drains.table.leaving(PORT)


def test_a_slice_that_changes_for_ever_costs_no_memory(drains: Drains) -> None:
    for number in range(MOST_LEAVING + 10):
        drains.table.leave(PORT, [Endpoint("10.0.0.1", number + 1)], 30.0)
    assert len(drains.table.leaving(PORT)) == MOST_LEAVING


def test_another_process_goes_on_with_all_of_them(drains: Drains) -> None:
    drains.drain(until=160.0, closes_at=130.0)
    drains.drain(B, API)
    drains.table.leave(PORT, [A], 30.0)
    heir = Drains()
    heir.loop.now = 105.0
    heir.table.restore(drains.table.state())
    assert heir.table.state() == drains.table.state()
    heir.loop.until(130.0)
    assert (len(heir.closed), len(heir.table.leaving(PORT))) == (1, 0)
    heir.loop.until(160.0)
    assert [each.service for each in heir.table.all()] == [API]


async def test_it_works_by_a_real_loop() -> None:
    loop = asyncio.get_running_loop()
    table = DrainTable(loop)
    over = asyncio.Event()
    changes = table.subscribe(over.set)
    table.put(Drain(WEB, A, loop.time(), 0.0))
    over.clear()
    table.put(Drain(WEB, A, loop.time(), 0.0, until=loop.time() + 0.01))
    over.clear()
    await over.wait()
    assert (table.all(), list(changes.take())) == ([], [WEB])
    table.shut_down()


def test_endpoints_that_come_and_go_all_the_time_leave_nothing_behind(drains: Drains) -> None:
    """An hour's drain, and a slice that names others every second."""
    endpoints = [Endpoint("10.0.0.1", number + 1) for number in range(100)]
    for _ in range(200):
        drains.table.leave(PORT, endpoints, 3600.0)
        drains.table.returned(PORT, endpoints)
        drains.drain(until=drains.loop.now + 3600.0)
        drains.loop.until(drains.loop.now + 1.0)
    drains.table.leave(PORT, [B], 30.0)
    assert drains.table.planned <= 2 * (len(endpoints) + 1) + SLACK + 1
    drains.loop.until(drains.loop.now + 30.0)
    assert drains.table.leaving(PORT) == ()
    assert len(drains.table.all()) == 1
    drains.loop.until(drains.loop.now + 3600.0)
    assert drains.table.all() == []
