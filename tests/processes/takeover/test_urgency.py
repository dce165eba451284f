"""Who goes first while nobody is served."""

import gc
import os

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


def test_without_permission_it_does_what_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    with Urgency():
        assert not gc.isenabled()
    assert gc.isenabled()
