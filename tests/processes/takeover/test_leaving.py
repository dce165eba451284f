"""Who leaves lets others have the processor."""

import os
from concurrent.futures import ThreadPoolExecutor

from userproxy.processes.scheduling import LONG_TURN, ask_for_short_turns, turn
from userproxy.processes.takeover.leaving import give_way


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_a_thread_that_gives_way_goes_after_the_others() -> None:
    def leave() -> tuple[int, int, int]:
        before = nice()
        short = ask_for_short_turns()
        give_way()
        return before, nice(), turn(0) if short else LONG_TURN

    mine = nice()
    with ThreadPoolExecutor(1) as threads:
        before, after, its_turn = threads.submit(leave).result()
    assert after == min(before + 10, 19)
    assert nice() == mine
    assert its_turn == LONG_TURN
