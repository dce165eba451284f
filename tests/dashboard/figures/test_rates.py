"""Rates beside counters."""

import pytest

from userproxy.dashboard.figures.rates import Item, endpoint_key, rounded, service_key, with_rates


def service(**changed: int) -> Item:
    counters = {"active": 0, "total": 0, "failed": 0, "retried": 0, "bytes_up": 0, "bytes_down": 0}
    return {"namespace": "default", "name": "web", "port": "http", "protocol": "TCP", **counters, **changed}


KEY = "default/web/http/TCP"


def test_counters_have_a_rate_by_the_time_between_two_looks() -> None:
    before = with_rates([service(total=10, bytes_up=100)], {}, 1, service_key)
    after = with_rates([service(total=16, bytes_up=1100, failed=1)], before, 2, service_key)
    row = after[KEY]
    assert (row["key"], row["total"], row["bytes_up"]) == (KEY, 16, 1100)
    assert (row["opened_rate"], row["up_rate"], row["failed_rate"], row["retried_rate"]) == (3.0, 500.0, 0.5, 0.0)


def test_what_is_new_has_no_rates_yet() -> None:
    assert with_rates([service(total=1000)], {}, 1, service_key)[KEY]["opened_rate"] == 0.0


def test_a_counter_that_is_smaller_than_before_has_begun_anew() -> None:
    before = with_rates([service(total=1000)], {}, 1, service_key)
    assert with_rates([service(total=4)], before, 2, service_key)[KEY]["opened_rate"] == 2.0


def test_an_endpoint_has_the_rates_of_the_counters_that_it_has() -> None:
    item = {"endpoint": "10.0.0.1:80", "total": 1, "failed": 0, "bytes_up": 0, "bytes_down": 0}
    row = with_rates([item], {}, 1, endpoint_key)["10.0.0.1:80"]
    assert "retried_rate" not in row
    assert row["opened_rate"] == 0.0


@pytest.mark.parametrize(("rate", "shown"), [(0.0, 0.0), (1234.5, 1230.0), (0.012345, 0.0123)])
def test_rates_have_three_digits(rate: float, shown: float) -> None:
    assert rounded(rate) == shown
