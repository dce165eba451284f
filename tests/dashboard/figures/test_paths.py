"""By which clients and portals traffic comes."""

from typing import Any

from userproxy.dashboard.figures.paths import MOST_CLIENTS, OTHERS, Paths
from userproxy.dashboard.figures.rates import Item

PORTAL = "10.96.0.10:80"


def item(client: str, up: int = 0, down: int = 0, **changed: Any) -> Item:
    return {"client": client, "portal": PORTAL, "protocol": "TCP", "bytes_up": up, "bytes_down": down, **changed}


def test_connections_that_go_on_and_those_that_ended_are_counted_once() -> None:
    paths = Paths()
    assert [row["opened_rate"] for row in paths.rows([item("10.0.0.1:1000", 10)], 1)] == [0.0]
    paths.decided(item("10.0.0.1:1000", 110, verdict="served"))
    paths.decided(item("10.0.0.1:1001", 5, 5, verdict="served"))
    (row,) = paths.rows([item("10.0.0.1:1002", 0, 7)], 2)
    assert row == {
        "client": "10.0.0.1",
        "clients": 1,
        "portal": PORTAL,
        "active": 1,
        "opened_rate": 1.0,
        "failed_rate": 0.0,
        "up_rate": 52.5,
        "down_rate": 6.0,
    }


def test_who_was_not_served_is_a_failure_and_who_was_tried_again_goes_on() -> None:
    paths = Paths()
    paths.rows([], 1)
    paths.decided(item("10.0.0.1:1", verdict="retried"))
    paths.decided(item("10.0.0.1:2", verdict="refused"))
    (row,) = paths.rows([], 1)
    assert (row["opened_rate"], row["failed_rate"]) == (1.0, 1.0)


def test_each_portal_of_a_client_is_a_path_and_one_may_not_be_known() -> None:
    rows = Paths().rows(
        [item("10.0.0.1:1"), item("10.0.0.1:2", portal="192.0.2.1:30080"), item("[fd00::1]:3", portal=None)], 1
    )
    assert [(row["client"], row["portal"]) for row in rows] == [
        ("10.0.0.1", PORTAL),
        ("10.0.0.1", "192.0.2.1:30080"),
        ("fd00::1", None),
    ]


def test_the_busiest_clients_are_shown_and_the_others_are_one() -> None:
    connections = [item(f"10.0.0.{number}:{port}") for number in range(1, 21) for port in range(1, number + 1)]
    rows = Paths().rows(connections, 1)
    assert len(rows) == MOST_CLIENTS + 1
    assert (rows[-1]["client"], rows[-1]["clients"]) == (OTHERS, 20 - MOST_CLIENTS)
    assert {row["client"] for row in rows[:-1]} == {f"10.0.0.{number}" for number in range(13, 21)}
    assert sum(row["active"] for row in rows) == len(connections)
