"""Which service ports have series of their own, and that nothing is lost or counted twice."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tests.telemetry.traffic.figures import figures, service_port
from userproxy.model import IPFamily, Protocol
from userproxy.model.reports import ListenerFigures
from userproxy.telemetry.traffic.families import COUNTERS, GAUGES
from userproxy.telemetry.traffic.series import KEPT_SECONDS, REST_NAME, SeriesTable

OPENED, ACTIVE = 0, 0
"""Where the values of the first families are."""


def test_the_first_families_are_those_that_the_tests_look_at() -> None:
    assert COUNTERS[OPENED].name == "userproxy_connections_opened"
    assert GAUGES[ACTIVE].name == "userproxy_connections_active"


def opened(table: SeriesTable, protocol: Protocol = Protocol.TCP) -> dict[str, float]:
    return {each.name.name: each.counts[OPENED] for each in table if each.name.protocol is protocol}


def test_all_have_series_from_zero_on_where_there_is_room_and_the_rest_is_always_there() -> None:
    table = SeriesTable(10)
    table.take([figures("a"), figures("b", Protocol.UDP)], 1.0)
    assert opened(table) == {"a": 0, REST_NAME: 0}
    assert opened(table, Protocol.UDP) == {"b": 0, REST_NAME: 0}
    assert (table.shown_alone, table.in_rest) == (2, 0)


def test_listeners_of_both_families_and_all_traffic_classes_are_one_service_port() -> None:
    table = SeriesTable(10)
    table.take([figures("a", total=3, active=1), figures("a", family=IPFamily.IPV6, total=4, active=2)], 1.0)
    (own, *_) = table
    assert (own.name, own.counts[OPENED], own.gauges[ACTIVE]) == (service_port("a"), 7, 3)


def test_whoever_has_clients_comes_before_who_never_had_any() -> None:
    table = SeriesTable(1)
    table.take([figures("a"), figures("b")], 1.0)
    assert opened(table) == {"a": 0, REST_NAME: 0}
    table.take([figures("a"), figures("b", total=5)], 2.0)
    assert opened(table) == {"b": 5, REST_NAME: 0}
    table.take([figures("a", total=9, active=1), figures("b", total=5)], 3.0)
    assert opened(table) == {"b": 5, REST_NAME: 9}
    *_, rest_tcp, _ = table
    assert rest_tcp.gauges[ACTIVE] == 1
    assert (table.shown_alone, table.in_rest) == (1, 1)


def test_a_deleted_service_is_shown_for_a_while_and_then_gone_and_nothing_jumps() -> None:
    table = SeriesTable(2)
    table.take([figures("a", total=5, active=1), figures("b", total=1)], 1.0)
    table.take([figures("b", total=1)], 2.0)
    assert opened(table) == {"a": 5, "b": 1, REST_NAME: 0}
    assert next(iter(table)).gauges[ACTIVE] == 0
    table.take([figures("b", total=1)], 1.0 + KEPT_SECONDS)
    assert opened(table) == {"b": 1, REST_NAME: 0}


def test_one_that_is_deleted_and_made_again_goes_on_from_where_it_was() -> None:
    table = SeriesTable(2)
    table.take([figures("a", total=5, number=1)], 1.0)
    table.take([], 2.0)
    table.take([figures("a", total=2, number=2)], 3.0)
    assert opened(table)["a"] == 7
    table.take([figures("a", total=3, number=3)], 4.0)  # made again between two scrapes
    assert opened(table)["a"] == 10


def test_what_was_done_between_the_last_scrape_and_the_end_counts_and_so_does_what_goes_on_then() -> None:
    table = SeriesTable(2)
    table.take([figures("a", total=5, active=2, number=1)], 1.0)
    table.take([], 2.0, [figures("a", total=7, active=1, bytes_up=10, number=1)])
    assert (opened(table)["a"], next(iter(table)).gauges[ACTIVE]) == (7, 1)
    table.take([figures("a", number=2)], 3.0, [figures("a", total=7, bytes_up=30, number=1)])
    assert (opened(table)["a"], next(iter(table)).gauges[ACTIVE]) == (7, 0)
    assert sum(next(iter(table)).counts) == 7 + 30


def test_a_closed_listener_without_clients_is_no_service_port_any_more() -> None:
    table = SeriesTable(2)
    for time in (1.0, 2.0, 1.0 + KEPT_SECONDS):
        table.take([], time, [figures("a", total=5, number=1)])
        assert (table.shown_alone, table.in_rest) == (0, 0)
    assert opened(table) == {REST_NAME: 0}


def test_who_is_told_of_as_open_and_as_closed_counts_once() -> None:
    table = SeriesTable(2)
    table.take([figures("a", total=5, active=1, number=1)], 1.0, [figures("a", total=6, active=1, number=1)])
    assert (opened(table)["a"], next(iter(table)).gauges[ACTIVE]) == (6, 1)


def test_the_series_of_one_that_is_gone_makes_room_before_its_time_and_the_longest_gone_first() -> None:
    table = SeriesTable(2)
    table.take([figures("a", total=1), figures("b", total=1)], 1.0)
    table.take([figures("b", total=1)], 2.0)
    table.take([], 3.0)
    table.take([figures("c", total=1)], 4.0)
    assert opened(table) == {"b": 1, "c": 1, REST_NAME: 0}


def test_no_series_of_its_own_for_anybody() -> None:
    table = SeriesTable(0)
    table.take([figures("a", total=5), figures("b", Protocol.UDP, total=6)], 1.0)
    assert (opened(table), opened(table, Protocol.UDP)) == ({REST_NAME: 5}, {REST_NAME: 6})


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[list[ListenerFigures], list[ListenerFigures]]]:
    """What open and closed listeners say one time after the other: they grow, are closed, and opened again at zero."""
    numbers = itertools.count(1)
    open_ones: dict[str, tuple[int, int]] = {}
    closed: dict[int, tuple[str, int]] = {}
    history = []
    for _ in range(draw(st.integers(1, 12))):
        for name in "abcd":
            match draw(st.sampled_from(("grow", "grow", "close", "open"))):
                case "grow" if name in open_ones:
                    number, count = open_ones[name]
                    open_ones[name] = number, count + draw(st.integers(0, 9))
                case "close" if name in open_ones:
                    number, count = open_ones.pop(name)
                    closed[number] = name, count + draw(st.integers(0, 9))
                case "open":
                    open_ones.setdefault(name, (next(numbers), 0))
        history.append(
            (
                [figures(name, total=count, number=number) for name, (number, count) in open_ones.items()],
                [figures(name, total=count, number=number) for number, (name, count) in closed.items()],
            )
        )
    return history


@given(histories(), st.integers(0, 5))
def test_no_series_goes_back_and_all_that_was_done_is_counted_once(
    history: list[tuple[list[ListenerFigures], list[ListenerFigures]]], most: int
) -> None:
    table = SeriesTable(most)
    before: dict[str, float] = {}
    done = 0
    for time, (said, closed) in enumerate(history):
        table.take(said, float(time), closed)
        after = opened(table)
        assert len(after) <= most + 1
        assert all(after[name] >= count for name, count in before.items() if name in after)
        growth = sum(max(0, count - before.get(name, 0)) for name, count in after.items())
        assert growth == sum(each.total for each in (*said, *closed)) - done
        before, done = after, sum(each.total for each in (*said, *closed))
