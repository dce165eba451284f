"""Failures in a row that several processes count together."""

from hypothesis import given
from hypothesis import strategies as st

from tests.routing.balancers.pools import endpoints
from tests.routing.balancers.shared.cells import PlainCell, PlainCells
from userproxy.model import Ejection, Endpoint
from userproxy.routing.balancers.ejections import Ejected, Ejections
from userproxy.routing.balancers.shared.rows import SharedRows

A, B, C, D = endpoints(4)
RULE = Ejection(3, 30.0)


def rows(count: int = 4, rule: Ejection = RULE, *, accepting_counts: bool = True) -> SharedRows:
    found = SharedRows(accepting_counts=accepting_counts)
    found.rule, found.count = rule, count
    return found


def fail(its: SharedRows, cells: PlainCells, which: Endpoint, now: float, *, by_reset: bool = False) -> Ejected | None:
    return its.failed(cells, which, now, "Connection refused", by_reset=by_reset)


def test_failures_of_all_processes_count_together_and_the_last_one_ejects() -> None:
    cells, one, two = PlainCells(endpoints(4)), rows(), rows()
    assert fail(one, cells, A, 0.0) is None
    assert fail(two, cells, A, 1.0) is None
    assert fail(two, cells, A, 2.0) == Ejected(A, 2.0, 32.0, "3 failures in a row: Connection refused")
    assert cells[A].is_out
    assert fail(one, cells, A, 2.1) is None, "it is ejected, although this process does not know it"
    assert one.is_spent(cells, A)


def test_a_success_of_any_process_ends_the_row_and_time_does() -> None:
    cells, its = PlainCells(endpoints(4)), rows()
    for now in (0.0, 1.0):
        fail(its, cells, A, now)
    cells[A].total += 1
    assert [fail(its, cells, A, now) for now in (2.0, 3.0, 34.0, 35.0)] == [None] * 4
    assert fail(its, cells, A, 36.0) is not None


def test_kinds_are_counted_apart_and_what_ends_their_rows_is_not_the_same() -> None:
    cells, its = PlainCells(endpoints(4)), rows()
    for now in (0.0, 1.0):
        fail(its, cells, A, now, by_reset=True)
        fail(its, cells, A, now)
        cells[A].total += 1
    assert fail(its, cells, A, 2.0) is None, "a connection was accepted"
    assert fail(its, cells, A, 2.0, by_reset=True) is not None, "which said nothing"
    cells[B].total = 5
    udp = rows(accepting_counts=False)
    for now in (0.0, 1.0):
        fail(udp, cells, B, now)
        cells[B].total += 1
    cells[B].bytes_down += 1
    assert fail(udp, cells, B, 2.0) is None


def test_never_more_than_half_and_the_next_one_is_spent() -> None:
    cells, its = PlainCells((A, B)), rows(2)
    for endpoint in (A, B):
        found = [fail(its, cells, endpoint, now) for now in (0.0, 1.0, 2.0)]
    assert found == [None] * 3
    assert (cells.out(), its.is_spent(cells, B)) == (1, True)
    assert not rows(2).is_spent(PlainCells((A, B)), B)


def test_without_room_nothing_is_counted_and_others_go_first() -> None:
    cells, its = PlainCells((A,)), rows(rule=Ejection(1, 5.0))
    assert fail(its, cells, B, 0.0) is None
    assert its.is_spent(cells, B)


@given(st.lists(st.tuples(st.sampled_from("fs"), st.booleans(), st.floats(0.0, 20.0), st.integers(0, 1)), max_size=25))
def test_as_one_process_would_count(events: list[tuple[str, bool, float, int]]) -> None:
    """Failures and successes of one endpoint, at either of two processes, against one process that has all of them."""
    cells, both = PlainCells(endpoints(4)), (rows(), rows())
    load = PlainCell()
    alone = Ejections({A: load}, accepting_counts=True)  # type: ignore[dict-item]
    alone.follow(endpoints(4), RULE)
    now = 0.0
    for kind, by_reset, pause, place in events:
        now += pause
        if kind == "s":
            for each in (load, cells[A]):
                each.total += 1
                each.bytes_down += by_reset
            continue
        expected = alone.failed(A, now, "no", by_reset=by_reset)
        assert both[place].failed(cells, A, now, "no", by_reset=by_reset) == expected
        if expected is not None:
            return
