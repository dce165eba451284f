"""What processes know together of endpoints that fail, in memory that they share."""

import os
from collections.abc import Iterator

import pytest

from tests.routing.balancers.pools import endpoints
from userproxy.forwarding.accept_turns import open_tally
from userproxy.forwarding.ejection.cells import CELLS, EjectionMemory, ListenerCells
from userproxy.forwarding.limits.counts import SLOTS, LimitCounts

A, B, C = endpoints(3)


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = open_tally()
    yield descriptor
    os.close(descriptor)


def test_all_see_what_each_has_had(memory: int) -> None:
    one, two, watching = (EjectionMemory(memory, 2, place).cell(7) for place in (0, 1, None))
    one.count(total=3, bytes_down=100)
    one.count(total=2)
    two.count(bytes_down=11)
    assert [(each.total, each.bytes_down) for each in (one, two, watching)] == [(5, 111)] * 3
    assert EjectionMemory(memory, 2).cell(8).total == 0


def test_rows_of_both_kinds_are_one_for_all_and_end_together(memory: int) -> None:
    one, two = (EjectionMemory(memory, 2, place).cell(0) for place in (0, 1))
    one.note_row(2, 17.25, 5, by_reset=False)
    two.note_row(1, 18.5, 900, by_reset=True)
    two.is_out = True
    one.count(total=4)
    assert (two.row(by_reset=False), one.row(by_reset=True), one.is_out) == ((2, 17.25, 5), (1, 18.5, 900), True)
    one.clear()
    assert (two.row(by_reset=False), two.row(by_reset=True), two.is_out) == ((0, 0.0, 0), (0, 0.0, 0), False)
    assert two.total == 4, "what has been done is done"


def test_limits_and_other_cells_are_not_disturbed(memory: int) -> None:
    counts = LimitCounts(memory, 2, 1).column(SLOTS - 1)
    cells = EjectionMemory(memory, 2, 0)
    for number in (0, CELLS - 1):
        cells.cell(number).count(total=9, bytes_down=9)
        cells.cell(number).note_row(9, 9.0, 9, by_reset=True)
        cells.cell(number).is_out = True
    assert counts.others(is_first=False) == 0
    assert [cells.is_out(number) for number in (0, 1, CELLS - 2, CELLS - 1)] == [True, False, False, True]
    assert cells.cell(1).total == 0


def test_a_listener_s_cells_are_found_by_endpoint(memory: int) -> None:
    cells = EjectionMemory(memory, 2, 0)
    its = ListenerCells(cells, {A: 4, B: 2, C: -1})
    cells.cell(2).is_out = cells.cell(3).is_out = True
    found = its.get(B)
    assert found is not None
    assert (found.is_out, its.get(C), its.out()) == (True, None, 1)
    cells.cell(4).is_out = True
    assert its.out() == 2
