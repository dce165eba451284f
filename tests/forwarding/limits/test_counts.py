"""What processes tell each other of their connections, in memory that they share."""

import os
from collections.abc import Iterator

import pytest

from userproxy.forwarding.accept_turns import AcceptTurns, open_tally
from userproxy.forwarding.limits.counts import SLOTS, LimitCounts


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = open_tally()
    yield descriptor
    os.close(descriptor)


def test_each_reads_what_the_others_have(memory: int) -> None:
    one, two, three = (LimitCounts(memory, 3, place).column(7) for place in range(3))
    one.write(10, 0)
    two.write(20, 0)
    three.write(30, 0)
    assert [each.others(is_first=False) for each in (one, two, three)] == [50, 40, 30]


def test_a_client_who_is_next_gives_way_to_those_of_processes_before_alone(memory: int) -> None:
    one, two = (LimitCounts(memory, 2, place).column(0) for place in range(2))
    one.write(5, 1)
    two.write(5, 1)
    assert (one.others(is_first=True), two.others(is_first=True)) == (5, 6)
    assert (one.others(is_first=False), two.others(is_first=False)) == (6, 6), "others give way to both"


def test_service_ports_and_turns_do_not_disturb_each_other(memory: int) -> None:
    turns = AcceptTurns(memory, 2, 0)
    one, two = LimitCounts(memory, 2, 0), LimitCounts(memory, 2, 1)
    for slot in (0, 1, SLOTS - 1):
        one.column(slot).write(slot + 1, 0)
    turns.mine(77)
    assert [two.column(slot).others(is_first=False) for slot in (0, 1, 2, SLOTS - 1)] == [1, 2, 0, SLOTS]
    assert AcceptTurns(memory, 2).connections(0) == 77


def test_held_clients_are_counted_apart(memory: int) -> None:
    one, two = (LimitCounts(memory, 2, place).column(5) for place in range(2))
    one.write(3, 1)
    one.hold(7)
    assert (one.held_by_others(), two.held_by_others()) == (0, 7)
    assert two.others(is_first=True) == 4


def test_who_has_ended_has_nothing(memory: int) -> None:
    one, two = LimitCounts(memory, 2, 0), LimitCounts(memory, 2, 1)
    one.column(3).write(9, 1)
    two.column(3).write(4, 0)
    LimitCounts(memory, 2).clear(0)
    assert two.column(3).others(is_first=False) == 0
    assert one.column(3).others(is_first=False) == 4


def test_what_is_cleared_is_ours_alone(memory: int) -> None:
    one, two = (LimitCounts(memory, 2, place).column(5) for place in range(2))
    for each in (one, two):
        each.write(3, 1)
        each.hold(7)
        each.take(10.0, 1.0)
    one.clear()
    assert (two.others(is_first=False), two.held_by_others(), one.full_at()) == (0, 0, 12.0)
    assert (one.others(is_first=False), one.held_by_others()) == (4, 7)
