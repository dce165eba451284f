"""Rates between two looks at the figures."""

from typing import Any

from tests.cli.items import connection, decision, endpoint, service
from userproxy.cli.top.clients import ClientTraffic
from userproxy.cli.top.rates import Look, Row, endpoint_key, endpoint_rows, service_key, service_rows


def look(seconds: float, *items: dict[str, Any]) -> Look:
    key = service_key if "balancer" in items[0] else endpoint_key
    return Look(seconds, {key(item): item for item in items})


def test_what_counters_have_grown_by_is_a_rate() -> None:
    before = look(10.0, service(total=12, bytes_up=900, bytes_down=1536, failed=0))
    after = look(12.0, service(total=16, bytes_up=1900, bytes_down=1537, failed=3, active=2))
    endpoints = [
        endpoint(total=3, dial_p50_seconds=0.25, dial_p99_seconds=0.3),
        endpoint(total=1, dial_p50_seconds=0.75, dial_p99_seconds=0.9),
        endpoint(total=9, service="default/other", dial_p99_seconds=7.0),
        endpoint(total=9, dial_p50_seconds=None, dial_p99_seconds=None),
    ]
    (row,) = service_rows(before, after, endpoints)
    assert row == Row("default/web:http", 2, 2.0, 500.0, 0.5, 1.5, 0.375, 0.9)


def test_without_endpoints_there_is_no_dial_time() -> None:
    (row,) = service_rows(look(1.0, service()), look(2.0, service()), [])
    assert (row.connections, row.dial_p50, row.dial_p99) == (0, None, None)


def test_what_is_new_has_happened_since_and_what_began_anew_too() -> None:
    before = look(0.0, service(total=100, bytes_up=10, bytes_down=0))
    after = look(1.0, service(total=4, bytes_up=20, bytes_down=0), service("new", total=5))
    assert [row.connections for row in service_rows(before, after, [])] == [4.0, 5.0]


def test_the_same_moment_twice_is_no_division_by_zero() -> None:
    (row,) = service_rows(look(1.0, service()), look(1.0, service()), [])
    assert row.connections == 0


def test_endpoints_are_told_apart_by_service_and_have_their_own_dial_times() -> None:
    items = (endpoint(), endpoint(service="default/api", port=""))
    rows = endpoint_rows(look(0.0, *items), look(4.0, *items))
    assert [row.name for row in rows] == ["10.244.0.2:8080 default/web:http", "10.244.0.2:8080 default/api"]
    assert rows[0].dial_p50 == 0.00021


def traffic_row(traffic: ClientTraffic, seconds: float, *connections: dict[str, Any]) -> Row:
    (row,) = traffic.rows(connections, seconds)
    return row


def test_a_client_is_the_sum_of_its_connections() -> None:
    first, second = connection(1, bytes_up=10, bytes_down=100), connection(2, bytes_up=1, bytes_down=1)
    traffic = ClientTraffic()
    assert traffic_row(traffic, 1.0, first, second)[:5] == ("10.244.0.9", 2, 2.0, 11.0, 101.0)
    later = connection(1, bytes_up=30, bytes_down=100)
    assert traffic_row(traffic, 2.0, later, second)[:5] == ("10.244.0.9", 2, 0.0, 10.0, 0.0)


def test_connections_that_have_ended_count_once_and_with_what_was_not_counted_yet() -> None:
    traffic = ClientTraffic()
    known = connection(1, bytes_up=10, bytes_down=100)
    traffic.rows([known], 1.0)
    traffic.decided(decision("retried", client="10.244.0.9:50000"))
    traffic.decided(decision(client=known["client"], bytes_up=15, bytes_down=100))
    traffic.decided(decision(client="10.244.0.9:50000", bytes_up=1, bytes_down=4))
    traffic.decided(decision("refused", client="10.244.0.9:50001", bytes_up=0, bytes_down=0))
    row = traffic_row(traffic, 1.0)
    assert row[:6] == ("10.244.0.9", 0, 2.0, 6.0, 4.0, 1.0)


def test_a_port_that_a_client_uses_again_is_another_connection() -> None:
    traffic = ClientTraffic()
    known = connection(1, bytes_up=10, bytes_down=100)
    traffic.rows([known], 1.0)
    for _ in range(2):
        traffic.decided(decision(client=known["client"], bytes_up=15, bytes_down=100))
    assert traffic_row(traffic, 1.0)[:5] == ("10.244.0.9", 0, 1.0, 20.0, 100.0)


def test_a_client_that_is_quiet_and_gone_is_forgotten() -> None:
    traffic = ClientTraffic()
    traffic.rows([connection(1)], 1.0)
    traffic.decided(decision(client=connection(1)["client"]))
    assert len(traffic.rows([], 1.0)) == 1
    assert traffic.rows([], 1.0) == []


def test_flows_have_no_dial_times() -> None:
    row = traffic_row(ClientTraffic(), 1.0, connection(1, protocol="UDP", dial_seconds=0.0), connection(2))
    assert (row.active, row.dial_p50, row.dial_p99) == (2, 0.0004, 0.0004)


def test_an_ipv6_client_has_its_address_without_brackets() -> None:
    assert traffic_row(ClientTraffic(), 1.0, connection(client="[fd00::9]:4711")).name == "fd00::9"
