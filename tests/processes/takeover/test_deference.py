"""Who starts leaves the processor to who serves, and is as others once it takes over."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from userproxy.processes import scheduling
from userproxy.processes.scheduling import LONG_TURN, ask_for_short_turns, turn
from userproxy.processes.takeover import deference
from userproxy.processes.takeover.deference import Deference

WAITS = "import sys; print(flush=True); sys.stdin.read()"


def now(thread: int = 0) -> tuple[int, int]:
    return os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread)


@pytest.fixture(autouse=True)
def predecessor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel lists of Unix sockets: that of somebody who listens for successors."""
    listed = tmp_path / "unix"
    listed.write_text("0000: 00000002 00000000 00010000 0005 01 123 /run/userproxy/admin.sock.takeover\n")
    monkeypatch.setattr(deference, "_SOCKETS", listed)
    return listed


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before, its_turn = now(), turn(0)
    yield
    assert now() == before
    scheduling._ask_for(its_turn)


@pytest.fixture
def privileged() -> None:
    if not deference._may_be_raised(now()[0]):
        pytest.skip("it takes CAP_SYS_NICE or RLIMIT_NICE")


@pytest.mark.usefixtures("privileged")
def test_it_goes_after_others_with_its_threads_and_processes_until_the_end() -> None:
    before = now()
    polite = Deference()
    polite.begin()
    lower = (before[0] + 5, os.SCHED_BATCH)
    assert now() == lower
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    command = [sys.executable, "-c", WAITS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        assert thread.native_id is not None
        assert now(thread.native_id) == now(child.pid) == lower
        polite.end([child.pid, 2**22])
        assert now() == now(thread.native_id) == now(child.pid) == before
        polite.end()
    done.set()
    thread.join()


def test_it_can_be_interrupted_until_it_asks_for_something_else() -> None:
    if not ask_for_short_turns():
        pytest.skip("this kernel has turns of one length")
    polite = Deference()
    polite.begin()
    found = [turn(0)]
    polite.end()
    assert [*found, turn(0)] == [LONG_TURN] * 2, "at its end nobody is served here yet"


def test_it_is_under_way_until_its_end() -> None:
    polite = Deference()
    found = [polite.is_under_way]
    polite.begin()
    found.append(polite.is_under_way)
    polite.end()
    assert [*found, polite.is_under_way] == [False, True, False]


def test_what_could_not_be_taken_back_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    before = now()
    allowed = os.setpriority

    def refuse(which: int, who: int, nice: int) -> None:
        if nice < os.getpriority(which, who):
            raise PermissionError
        allowed(which, who, nice)

    monkeypatch.setattr(os, "setpriority", refuse)
    polite = Deference()
    polite.begin()
    assert now() == (before[0], os.SCHED_BATCH)
    polite.end()


def test_without_a_predecessor_it_starts_as_fast_as_it_can(predecessor: Path) -> None:
    before = now()
    predecessor.write_text("0000: 00000002 00000000 00010000 0005 01 123 /run/userproxy/admin.sock\n")
    polite = Deference()
    polite.begin()
    assert now() == before
    predecessor.unlink()
    polite.begin()
    assert now() == before
    polite.end()


def test_a_policy_that_somebody_else_has_chosen_stays() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        polite = Deference()
        polite.begin()
        polite.end()
        assert now()[1] == os.SCHED_BATCH
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
