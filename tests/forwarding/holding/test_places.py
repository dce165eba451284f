"""How many clients may be held, in one process and in several that count together."""

import os

import pytest

from userproxy.forwarding.accept_turns import open_tally
from userproxy.forwarding.holding.places import AllPlaces
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.model import Protocol, ServicePortName
from userproxy.model.holding import MOST_HELD, HeldClients

NAME = ServicePortName("default", "web", "http", Protocol.TCP)
OTHER = ServicePortName("default", "other", "", Protocol.TCP)


def test_one_process_has_all_and_each_service_port_its_own() -> None:
    places = AllPlaces()
    mine, other = places.of(NAME), places.of(OTHER)
    assert [mine.take() for _ in range(MOST_HELD + 2)] == [True] * MOST_HELD + [False] * 2
    assert other.take()
    mine.give()
    assert mine.take()
    assert places.of(NAME) is mine, "listeners of a service port have them in common"
    assert sorted(places.report()) == [HeldClients(OTHER, 1, 1), HeldClients(NAME, MOST_HELD, MOST_HELD + 1)]


@pytest.mark.parametrize(("processes", "part"), [(2, MOST_HELD // 2), (4, MOST_HELD // 4), (2 * MOST_HELD, 1)])
def test_each_of_several_has_its_part_where_they_cannot_count_together(processes: int, part: int) -> None:
    places = AllPlaces(processes=processes).of(NAME)
    assert sum(places.take() for _ in range(MOST_HELD)) == part


def test_several_that_count_together_have_no_more_than_one(memory: int) -> None:
    one, two = (
        AllPlaces(lambda _, place=place: LimitCounts(memory, 2, place).column(7), 2).of(NAME)  # type: ignore[misc]
        for place in range(2)
    )
    assert sum(one.take() for _ in range(MOST_HELD - 10)) == MOST_HELD - 10
    assert sum(two.take() for _ in range(20)) == 10
    assert not one.take()
    one.give()
    assert two.take()
    assert not one.take(), "who was refused has left no trace"
    LimitCounts(memory, 2).clear(1)
    assert one.take(), "who has ended holds nobody"


def test_those_who_are_held_count_where_they_are_counted_from_now_on(memory: int) -> None:
    slots = [3]
    mine = AllPlaces(lambda _: LimitCounts(memory, 2, 0).column(slots[0]), 2)
    places = mine.of(NAME)
    assert places.take()
    slots[0] = 4
    mine.placed(NAME)
    mine.placed(OTHER)
    assert LimitCounts(memory, 2, 1).column(4).held_by_others() == 1


@pytest.fixture
def memory() -> int:
    descriptor = open_tally()
    os.set_inheritable(descriptor, False)
    return descriptor
