"""The end-to-end tests that are repeated with two data processes: ``pytest -p tests.data_processes tests/e2e``.

A sample, because all of them would take as long again. Chosen is what adds up over processes (figures, limits, lists,
decisions), what depends on who accepts a client, and what becomes of data processes when their control process goes.
With USERPROXY_TEST_WORKERS=2 all tests run so, this sample or not.
"""

import os
from typing import Final

import pytest

os.environ.setdefault("USERPROXY_TEST_WORKERS", "2")

SAMPLE: Final = (
    "test_admin.py::test_an_open_connection",
    "test_admin.py::test_a_watch_tells_of_connections",
    "test_explain.py::test_an_endpoint_that_could_not_be_reached_is_passed_over",
    "test_explain.py::test_nothing_is_changed",
    "test_limits.py::test_two_thousand_clients_at_once_under_a_limit_of_1024[manifests]",
    "test_limits.py::test_nine_hundred_idle_clients_of_one_service_are_not_noticed_by_others[manifests]",
    "test_metrics.py::test_figures_are_what_the_pods_and_the_clients_counted",
    "test_metrics.py::test_a_loop_that_was_held_up_lags",
    "test_metrics.py::test_a_deleted_service_makes_no_counter_go_back",
    "test_mishaps.py::test_endpoints_that_are_portals_lead_nobody_in_a_circle",
    "test_none.py::test_what_is_explained_happens_at_the_local_port",
    "test_restarts.py::test_after_a_kill_the_next_start_serves",
    "test_restarts.py::test_udp_clients_move_to_the_successor",
    "test_restarts.py::test_without_a_successor_clients_are_accepted_until_the_last_one_has_gone",
    "test_see.py::test_tables_of_real_traffic",
    "test_see.py::test_figures_agree_with_each_other_and_with_the_traffic",
    "test_see.py::test_decisions_of_real_traffic",
    "test_see.py::test_status_and_what_makes_it_fail",
    "test_tenants.py::test_one_address_with_many_idle_connections",
    "test_udp.py::test_ten_thousand_flows_leave_nothing_behind",
)
"""The beginnings of their names."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if item.nodeid.rpartition("/")[2].startswith(SAMPLE)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_sessionfinish(session: pytest.Session) -> None:
    """To be asked for tests of which none is in the sample is no failure."""
    if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK
