"""Who goes first while nobody is served."""

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from userproxy.processes.takeover.urgency import Urgency


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


@pytest.fixture
def may_go_first() -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice())
        os.setpriority(os.PRIO_PROCESS, 0, nice() - 1)
    except PermissionError:
        pytest.skip("it takes CAP_SYS_NICE")
    os.setpriority(os.PRIO_PROCESS, 0, nice() + 1)


@pytest.mark.usefixtures("may_go_first")
def test_it_goes_first_and_then_is_as_before() -> None:
    before = nice()
    urgency = Urgency()
    urgency.begin()
    urgency.begin()
    assert (nice(), gc.isenabled()) == (-20, False)
    urgency.end()
    assert (nice(), gc.isenabled()) == (before, True)
    urgency.end()
    assert (nice(), gc.isenabled()) == (before, True)


@pytest.mark.usefixtures("may_go_first")
def test_also_after_an_error() -> None:
    before = nice()
    with pytest.raises(ValueError, match="failed"), Urgency():
        raise ValueError("failed")
    assert (nice(), gc.isenabled()) == (before, True)


@pytest.mark.usefixtures("may_go_first")
def test_what_is_started_meanwhile_does_not_go_first_for_good() -> None:
    print_nice = [sys.executable, "-c", "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"]
    before = nice()
    with Urgency():
        program = subprocess.run(print_nice, capture_output=True, check=True, text=True)
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(nice).result() == 0
    assert int(program.stdout) == 0
    after = subprocess.run(print_nice, capture_output=True, check=True, text=True)
    assert (int(after.stdout), os.sched_getscheduler(0)) == (before, os.SCHED_OTHER)


def test_without_permission_it_does_what_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    before = os.sched_getscheduler(0)
    with Urgency():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert os.sched_getscheduler(0) == before


LIMIT_ALONE = """
import os, resource
from userproxy.processes.takeover.urgency import Urgency

try:
    resource.setrlimit(resource.RLIMIT_NICE, (40, 40))
except ValueError:
    raise SystemExit(77)
os.setresuid(65534, 65534, 65534)  # and with it all capabilities are gone

for _ in range(2):
    with Urgency():
        print(os.getpriority(os.PRIO_PROCESS, 0))
    print(os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.usefixtures("may_go_first")
def test_a_limit_that_permits_it_is_enough() -> None:
    """As of the systemd unit, LimitNICE, which gives no capability."""
    command = [sys.executable, "-c", LIMIT_ALONE]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode == 77:
        pytest.skip("it takes CAP_SYS_RESOURCE to raise the limit")
    assert done.returncode == 0, done.stderr
    assert [int(each) for each in done.stdout.split()] == [-20, nice()] * 2
