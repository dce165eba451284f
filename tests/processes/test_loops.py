"""The event loop of a process."""

import asyncio

import pytest
import uvloop
from structlog.testing import capture_logs

from userproxy.config import EventLoop
from userproxy.errors import UsageError
from userproxy.processes.loops import loop_factory


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
