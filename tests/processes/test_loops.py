"""The event loop of a process."""

import asyncio
import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import uvloop
from structlog.testing import capture_logs

from userproxy.config import EventLoop
from userproxy.errors import UsageError
from userproxy.pace import SLICE_SECONDS
from userproxy.processes.loops import loop_factory, set_up_interpreter, started
from userproxy.processes.scheduling import SHORT_TURN, ask_for_long_turns, ask_for_short_turns, turn


def test_the_event_loop_is_the_one_that_is_asked_for() -> None:
    assert loop_factory(EventLoop.ASYNCIO) is asyncio.new_event_loop
    assert loop_factory(EventLoop.UVLOOP) is uvloop.new_event_loop
    assert loop_factory(EventLoop.AUTO) is uvloop.new_event_loop


def test_without_uvloop_asyncio_s_loop_serves_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    with capture_logs() as logs:
        assert loop_factory(EventLoop.AUTO) is asyncio.new_event_loop
    assert logs[0]["log_level"] == "warning"
    with pytest.raises(UsageError, match=r"^--event-loop: uvloop cannot be loaded: "):
        loop_factory(EventLoop.UVLOOP)


@pytest.fixture
def interpreter() -> Iterator[None]:
    """What concerns everything in this process is afterwards as it was."""
    threshold, seconds = gc.get_threshold(), sys.getswitchinterval()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()
    sys.setswitchinterval(seconds)


@pytest.mark.usefixtures("interpreter")
def test_a_process_that_carries_traffic_runs_for_short_turns_once_it_serves() -> None:
    def turns(*, carries_traffic: bool) -> int:
        started(carries_traffic=carries_traffic)
        return turn(0)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(ask_for_long_turns).result()
        usual = threads.submit(partial(turns, carries_traffic=False)).result()
        assert usual != SHORT_TURN
        if not threads.submit(ask_for_short_turns).result():
            pytest.skip("this kernel has turns of one length")
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(partial(turns, carries_traffic=True)).result() == SHORT_TURN


@pytest.mark.usefixtures("interpreter")
def test_garbage_is_collected_seldom_and_until_all_is_served_even_less() -> None:
    set_up_interpreter(starting=True)
    first = gc.get_threshold()[0]
    started(carries_traffic=False)
    assert gc.get_freeze_count() > 0
    later = gc.get_threshold()[0]
    assert first > later > 1000
    gc.unfreeze()
    set_up_interpreter()
    assert gc.get_threshold()[0] == later


@pytest.mark.usefixtures("interpreter")
def test_another_thread_keeps_the_interpreter_no_longer_than_a_slice_of_work() -> None:
    set_up_interpreter()
    assert sys.getswitchinterval() == pytest.approx(SLICE_SECONDS, rel=0.01)
