"""The faults that have been asked for, as long as they are in force."""

import time

import pytest

from tests.admin.planes import Steered
from userproxy.admin.steering.fault_table import FaultTable, TooManyFaultsError
from userproxy.model import ServiceName
from userproxy.model.faults import MOST_FAULTS, Fault, Latency


def fault(seconds: float = 60.0) -> Fault:
    now = time.monotonic()
    return Fault(0, ServiceName("default", "web"), Latency(0.2), now, 0.0, now + seconds)


def test_each_has_a_number_of_its_own_for_good() -> None:
    steering = Steered()
    table = FaultTable(steering)
    assert [table.add(fault()).id for _ in range(3)] == [1, 2, 3]
    assert [each.id for each in table.clear(2)] == [2]
    assert [each.id for each in steering.faults] == [1, 3]
    assert table.add(fault()).id == 4
    assert (table.clear(2), len(table.clear()), table.clear(), steering.faults) == ((), 3, (), ())


def test_those_that_are_over_are_none() -> None:
    steering = Steered()
    table = FaultTable(steering)
    table.add(fault(-1.0))
    assert table.current() == ()
    kept = table.add(fault())
    assert table.current() == steering.faults == (kept,)


def test_what_a_hand_over_has_ended_is_not_in_force_and_does_not_come_back() -> None:
    steering = Steered()
    table = FaultTable(steering)
    table.add(fault())
    steering.put_faults(())
    assert table.current() == ()
    assert [each.id for each in (table.add(fault()), *table.current())] == [2, 2]


def test_there_is_an_end() -> None:
    table = FaultTable(Steered())
    for _ in range(MOST_FAULTS):
        table.add(fault())
    with pytest.raises(TooManyFaultsError, match="100 faults are in force already"):
        table.add(fault())


def test_they_need_to_be_allowed() -> None:
    assert not FaultTable(Steered()).may_change
    assert FaultTable(Steered(), lambda: True).may_change
