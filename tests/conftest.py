"""Fixtures for every test."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import structlog

from tests.lab.fixtures import cell, lab, pytest_addoption, pytest_runtest_makereport, root, routed_lab
from userproxy.demo.bytecode import kept_bytecode

__all__ = ["cell", "lab", "pytest_addoption", "pytest_runtest_makereport", "root", "routed_lab"]


def pytest_configure(config: pytest.Config) -> None:
    """Have programs that tests start keep what Python compiles, in one folder for all processes of pytest."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's job in the background ignores it, and so would programs that tests interrupt.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    stack = ExitStack()
    stack.enter_context(kept_bytecode())
    config.add_cleanup(stack.close)


@pytest.fixture(autouse=True)
def _no_precedence_of_a_take_over_is_left() -> Iterator[None]:
    """Take-overs inside this process end it by a timer of a loop that a test may end before."""
    nice, scheduler = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
    yield
    gc.enable()
    if os.getpriority(os.PRIO_PROCESS, 0) != nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        os.sched_setscheduler(0, scheduler, os.sched_getparam(0))


@pytest.fixture(autouse=True)
def _logs_as_nobody_configured_them() -> Iterator[None]:
    """Commands that run inside this process configure the logs of all of it."""
    yield
    structlog.reset_defaults()
