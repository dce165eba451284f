"""How soon repairs follow each other: pure, with times of the test's own."""

import pytest

from userproxy.proxier.repairs import DAMPED_AFTER, TOLD_AFTER, Repairs

PERIOD = 30.0


def fight(repairs: Repairs, rounds: int, now: float = 0.0) -> float:
    """Rounds of a repair that takes 10 ms and is undone at once, each as early as it may be; the time of the end."""
    for _ in range(rounds):
        repairs.disturbed(now)
        now += repairs.pause
        repairs.synced(now, now + 0.01, repaired=True, author="nft (process 7)")
        now += 0.01
    return now


def test_the_first_repairs_wait_for_next_to_nothing() -> None:
    repairs = Repairs(PERIOD)
    assert repairs.pause == 0.25
    assert fight(repairs, DAMPED_AFTER) == pytest.approx(DAMPED_AFTER * 0.26)
    assert repairs.pause == 0.25


def test_then_each_waits_twice_as_long_up_to_the_period() -> None:
    repairs = Repairs(PERIOD)
    now = fight(repairs, DAMPED_AFTER)
    pauses = []
    for _ in range(8):
        now = fight(repairs, 1, now)
        pauses.append(repairs.pause)
    assert pauses == [2, 4, 8, 16, 30, 30, 30, 30]


def test_a_long_sync_is_not_followed_by_the_next_at_once() -> None:
    repairs = Repairs(PERIOD)
    repairs.synced(0, 0.4, repaired=False)
    assert repairs.pause == pytest.approx(0.8)
    repairs.synced(0, 5, repaired=False)
    assert repairs.pause == 1.0, "what is changed is repaired within two seconds all the same"


def test_a_fight_is_named_with_who_leads_it() -> None:
    repairs = Repairs(PERIOD)
    now = fight(repairs, TOLD_AFTER - 1)
    told = [repairs.fight]
    now = fight(repairs, 1, now)
    assert told == [None]
    assert repairs.fight is not None
    assert repairs.fight.startswith("nft (process 7), and were repaired 5 times within 1 s")
    told.append(repairs.fight)
    fight(repairs, 20, now)
    assert repairs.fight == told[-1], "told once, as long as it goes on"


def test_an_unknown_writer_is_called_so() -> None:
    repairs = Repairs(PERIOD)
    for now in range(TOLD_AFTER):
        repairs.disturbed(now)
        repairs.synced(now, now, repaired=True)
    assert repairs.fight is not None
    assert repairs.fight.startswith("a program that the kernel does not name, ")


def test_what_has_stood_for_a_while_was_not_fought() -> None:
    repairs = Repairs(PERIOD)
    now = fight(repairs, DAMPED_AFTER + 5)
    repairs.disturbed(now + 10)
    assert repairs.pause == 0.25
    assert repairs.fight is None


def test_a_writer_that_is_only_waited_for_has_not_given_in() -> None:
    repairs = Repairs(PERIOD)
    now = fight(repairs, DAMPED_AFTER + 5)
    repairs.disturbed(now)
    repairs.disturbed(now + 20)
    assert repairs.pause == PERIOD


def test_a_look_that_finds_everything_in_its_place_ends_a_fight() -> None:
    repairs = Repairs(PERIOD)
    now = fight(repairs, DAMPED_AFTER + 5)
    repairs.synced(now + 5, now + 5, repaired=False)
    assert repairs.fight is not None, "it may begin again"
    repairs.synced(now + 30, now + 30, repaired=False)
    assert repairs.fight is None


def test_failures_are_damped_and_are_no_fight() -> None:
    repairs = Repairs(PERIOD)
    for now in range(DAMPED_AFTER + 3):
        repairs.disturbed(now)
        repairs.failed(now)
    assert repairs.pause == 8
    assert repairs.fight is None
