"""The event loop of a process, how the interpreter is set up to carry traffic on it, and what the process is called."""

import asyncio
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from userproxy.errors import UsageError
from userproxy.pace import serving
from userproxy.processes.scheduling import ask_for_short_turns

log = structlog.get_logger()

_COLLECT_EVERY: Final = 10_000
"""Allocations between garbage collections. Connections leave no reference cycles, so with the default of 700 the
collector would only walk live objects again and again. Walking this many holds up traffic for two milliseconds."""

_COLLECT_EVERY_AT_START: Final = 2_000_000
"""The same until all Services are served for the first time. What is made by then stays, and to look through it again
and again took a fifteenth of the CPU. With 10,000 Services there are 400,000 allocations by then, so nothing is
collected: a tenth of a second each time, in which nobody would be served. It is a limit for what never stands."""

_SWITCH_SECONDS: Final = 0.00005
"""How long a thread that reads rules may keep the interpreter from the one that carries traffic, which gives it away
with each system call. A client's round trip took 0.17 ms at the median beside such a thread, with 0.5 ms here 0.66, and
with Python's own 5 ms it took 7.6."""


def set_up_interpreter(*, starting: bool = False) -> None:
    """Have the garbage collector and other threads hold up the loop less than they do by default.

    While the process is `starting`, until :func:`started`, much is made that stays.
    """
    gc.set_threshold(_COLLECT_EVERY_AT_START if starting else _COLLECT_EVERY)
    gc.enable()
    sys.setswitchinterval(_SWITCH_SECONDS)


def started(*, carries_traffic: bool) -> None:
    """Leave what there is by now out of all garbage collections, and have them as often as they should be.

    A process that `carries_traffic` is to have the CPU soon from now on. Until it serves there is no hurry.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)
    if carries_traffic:
        serve_traffic()


def serve_traffic() -> None:
    """The loop of this process, which runs in this thread, carries traffic from now on: others are to leave it the
    interpreter, and the CPU."""
    serving()
    ask_for_short_turns()


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the loop that ``--event-loop`` names: ``auto``, ``uvloop`` or ``asyncio``.

    Raises UsageError where uvloop is asked for and cannot be loaded.
    """
    if choice == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError as error:
        if choice == "uvloop":
            raise UsageError(f"--event-loop: uvloop cannot be loaded: {error}") from error
        log.warning("uvloop cannot be loaded: asyncio's own event loop serves, at more CPU", reason=str(error))
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def name_process(name: str) -> None:
    """What ``ps -c`` and ``top`` call this process (proc(5), comm): 15 letters of it."""
    try:
        Path("/proc/self/comm").write_text(name)
    except OSError:
        log.debug("The process keeps its name", v=4)
