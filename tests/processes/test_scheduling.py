"""Short turns of the CPU, as this kernel has them."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from userproxy.processes import scheduling
from userproxy.processes.scheduling import LONG_TURN, SHORT_TURN, ask_for_long_turns, ask_for_short_turns, turn


def granted() -> tuple[bool, int, int]:
    """Whether a thread of its own is granted short turns, and how long they are before and afterwards."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(ask_for_long_turns).result()  # what this thread has may be short
        before = threads.submit(turn, 0).result()
        return threads.submit(ask_for_short_turns).result(), before, threads.submit(turn, 0).result()


def test_turns_are_short_where_the_kernel_grants_it() -> None:
    mine = turn(os.getpid())
    short, before, after = granted()
    if not short:
        pytest.skip("this kernel has turns of one length")
    assert after == SHORT_TURN < before
    assert turn(os.getpid()) == mine, "the other threads have what they had"


def test_who_serves_nobody_is_interrupted_by_everybody_who_wakes_up() -> None:
    def ask() -> tuple[bool, int, bool, int]:
        return ask_for_long_turns(), turn(0), ask_for_short_turns(), turn(0)

    with ThreadPoolExecutor(1) as threads:
        long, its_turn, short, after = threads.submit(ask).result()
    if not long:
        pytest.skip("this kernel has turns of one length")
    assert (its_turn, short, after) == (LONG_TURN, True, SHORT_TURN)


def test_a_machine_whose_calls_are_not_known_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_CALLS", {})
    assert granted() == (False, 0, 0)


def test_who_is_scheduled_otherwise_stays_so() -> None:
    def idle() -> tuple[bool, int]:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return ask_for_short_turns(), os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(idle).result() == (False, os.SCHED_IDLE)
