"""Rows of connections, which stay the same as long as nothing happens."""

from typing import Any

from userproxy.dashboard.figures.connection_rows import ConnectionRows
from userproxy.dashboard.figures.rates import Item


def connection(**changed: Any) -> Item:
    figures = {"age_seconds": 5.0, "idle_seconds": 2.0, "bytes_up": 0, "bytes_down": 0}
    return {"id": 1, "client": "10.0.0.1:1000", **figures, **changed}


def test_ages_are_moments() -> None:
    row = ConnectionRows().update([connection()], 100.0)[1]
    assert (row["began"], row["quiet_since"], row["up_rate"]) == (95.0, 98.0, 0.0)
    assert "age_seconds" not in row
    assert "idle_seconds" not in row


def test_a_quiet_connection_is_the_same_row_again() -> None:
    rows = ConnectionRows()
    first = rows.update([connection()], 100.0)[1]
    assert rows.update([connection(age_seconds=6.01, idle_seconds=3.2)], 101.0)[1] is first


def test_bytes_since_the_last_look_are_rates() -> None:
    rows = ConnectionRows()
    rows.update([connection(bytes_up=10)], 100.0)
    row = rows.update([connection(bytes_up=30, bytes_down=1000, idle_seconds=0.0)], 102.0)[1]
    assert (row["up_rate"], row["down_rate"], row["quiet_since"]) == (10.0, 500.0, 102.0)


def test_who_has_gone_is_no_row() -> None:
    rows = ConnectionRows()
    rows.update([connection()], 100.0)
    assert rows.update([], 101.0) == {}
