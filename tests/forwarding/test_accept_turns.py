"""Whose turn it is to accept from a socket that several processes share."""

import os
from collections.abc import Iterator

import pytest

from userproxy.forwarding.accept_turns import AcceptTurns, open_tally


@pytest.fixture
def tally() -> Iterator[int]:
    descriptor = open_tally()
    yield descriptor
    os.close(descriptor)


def test_who_has_clearly_more_connections_lets_the_other_go_first(tally: int) -> None:
    one, two = AcceptTurns(tally, 2, 0), AcceptTurns(tally, 2, 1)
    two.mine(10)
    assert not one.others_first(5)
    assert not one.others_first(12), "a difference of two is none"
    assert one.others_first(14)
    two.mine(1000)
    assert not one.others_first(1020), "nor is a thirtieth"
    assert one.others_first(1050)


def test_of_equals_the_one_goes_first_that_has_accepted_fewer(tally: int) -> None:
    one, two = AcceptTurns(tally, 2, 0), AcceptTurns(tally, 2, 1)
    for _ in range(5):
        one.accepted(1)
    assert one.others_first(0)
    assert not two.others_first(0)


def test_nobody_waits_for_a_process_that_is_not_there_and_a_new_one_begins_as_an_equal(tally: int) -> None:
    control = AcceptTurns(tally, 2)
    control.absent(1)
    one = AcceptTurns(tally, 2, 0)
    one.accepted(1000)
    assert not one.others_first(50)
    control.present(1)
    two = AcceptTurns(tally, 2, 1)
    assert not two.others_first(0), "it need not accept a thousand clients first"
    assert one.others_first(50)
    assert control.connections(0) == 50


def test_the_first_is_the_one_with_no_other_before_it_that_is_there(tally: int) -> None:
    control, one, two = AcceptTurns(tally, 3), AcceptTurns(tally, 3, 0), AcceptTurns(tally, 3, 1)
    three = AcceptTurns(tally, 3, 2)
    assert [each.is_first for each in (one, two, three)] == [True, False, False]
    control.absent(0)
    assert [each.is_first for each in (two, three)] == [True, False]
    control.absent(1)
    assert three.is_first
    control.present(0)
    assert [each.is_first for each in (one, two, three)] == [True, False, False]


def test_alone_there_is_nobody_to_wait_for(tally: int) -> None:
    assert not AcceptTurns(tally, 1, 0).others_first(10_000)
