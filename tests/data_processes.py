"""The end-to-end tests that are repeated with two data processes: ``pytest -p tests.data_processes tests/e2e``.

A sample, because all of them would take as long again. Chosen is what adds up over processes (figures, limits, lists,
decisions), what depends on who accepts a client, and what becomes of data processes when their control process goes; of
what remains a short test of each file, so that none works with one process alone. With USERPROXY_TEST_WORKERS=2 all
tests run so, this sample or not.
"""

import os
from typing import Final

import pytest

os.environ.setdefault("USERPROXY_TEST_WORKERS", "2")

SAMPLE: Final = {
    "figures, lists and decisions": (
        "test_admin.py::test_an_open_connection",
        "test_admin.py::test_a_watch_tells_of_connections",
        "test_explain.py::test_an_endpoint_that_could_not_be_reached_is_passed_over",
        "test_explain.py::test_nothing_is_changed",
        "test_metrics.py::test_figures_are_what_the_pods_and_the_clients_counted",
        "test_metrics.py::test_a_loop_that_was_held_up_lags",
        "test_metrics.py::test_a_deleted_service_makes_no_counter_go_back",
        "test_none.py::test_what_is_explained_happens_at_the_local_port",
        "test_figures.py::test_of_several_service_ports_all_is_remembered",
        "test_capture.py::test_without_allow_capture_it_is_one_sentence",
        "test_watched.py::test_a_reader_that_stops_is_cut_off_and_costs_bounded_memory",
        "test_see.py::test_tables_of_real_traffic",
        "test_see.py::test_figures_agree_with_each_other_and_with_the_traffic",
        "test_see.py::test_decisions_of_real_traffic",
        "test_see.py::test_status_and_what_makes_it_fail",
    ),
    "limits": (
        "test_limits.py::test_two_thousand_clients_at_once_under_a_limit_of_1024[manifests]",
        "test_limits.py::test_nine_hundred_idle_clients_of_one_service_are_not_noticed_by_others[manifests]",
        "test_service_limits.py::test_those_beyond_are_refused_at_once_and_that_is_told_everywhere",
        "test_tenants.py::test_one_address_with_many_idle_connections",
    ),
    "clients' addresses": (
        "test_client_address_paths.py::test_after_a_kill_clients_have_their_addresses_again_at_once",
        "test_return_path.py::test_what_belongs_to_a_process_goes_with_it",
    ),
    "UDP": (
        "test_udp.py::test_a_flow_stays_with_its_pod_and_clients_are_spread",
        "test_udp.py::test_ten_thousand_flows_leave_nothing_behind",
        "test_restarts.py::test_udp_clients_move_to_the_successor",
    ),
    "affinity and IPv6": (
        "test_dual_stack.py::test_one_service_in_both_families",
        "test_dual_stack.py::test_with_affinity_a_clients_families_are_two_clients_of_one_service",
    ),
    "health": (
        "test_restarts.py::test_health_checks_say_503_before_a_listener_closes_and_a_successor_takes_them_over",
        "test_ejection.py::test_one_that_resets_is_ejected",
    ),
    "steering": (
        "test_drain.py::test_a_drain_goes_on_over_a_take_over_and_closes_in_the_successor",
        "test_faults.py::test_a_data_process_in_the_place_of_another_has_the_faults",
        "test_hold.py::test_held_clients_are_handed_over_and_keep_their_order",
    ),
    "traffic": (
        "test_bytes.py::test_a_reset_is_a_reset_on_the_other_side[client-manifests]",
        "test_dead_endpoints.py::test_with_affinity_a_client_leaves_a_dead_endpoint_for_good[manifests]",
        "test_early_clients.py::test_clients_that_dial_a_service_before_it_is_there",
        "test_event_loops.py::test_serves_and_stops[asyncio]",
        "test_kubernetes_specs.py::test_source_pod_ip_is_preserved_for_traffic_through_a_cluster_ip",
        "test_local_ports.py::test_nobody_gets_past_the_portals",
        "test_no_endpoints.py::test_refused_at_once_and_served_as_soon_as_an_endpoint_comes",
        "test_rolling_update.py::test_no_connection_fails_while_every_pod_is_replaced[manifests]",
        "test_traffic.py::test_with_affinity_each_client_address_has_one_pod_for_all_portals",
        "test_udp_programs.py::test_dns_over_udp_and_tcp_on_one_port",
    ),
    "portals and policies": (
        "test_auto.py::test_without_netfilter_services_are_served_without_a_single_tracked_connection",
        "test_beside_kube_proxy.py::test_beside_a_kube_proxy_that_serves_the_others_its_jump_keeps_its_place",
        "test_capabilities.py::test_they_are_enough",
        "test_external_ips.py::test_as_an_endpoint_it_is_the_service_that_claims_it_and_never_its_own",
        "test_healing.py::test_only_what_is_missing_is_written[nftables]",
        "test_load_balancers.py::test_without_node_ports_of_its_own",
        "test_new_links.py::test_the_first_packet_of_its_first_pod_is_not_lost_for_more_than_a_second",
        "test_nftables.py::test_what_a_kill_left_is_taken_over_as_it_is",
        "test_node_address.py::test_new_clients_are_served_by_every_portal",
        "test_node_ports.py::test_one_number_for_both_protocols_is_no_conflict",
        "test_policies.py::test_without_detection_pods_have_no_short_cut",
        "test_refused_rules.py::test_a_service_whose_rules_are_refused_is_named_and_the_others_are_served",
        "test_routing_loops.py::test_a_pod_that_listens_on_the_number_of_a_node_port_is_a_pod",
        "test_rules.py::test_two_services_with_one_node_port_one_is_served_the_other_named[manifests]",
        "test_switching.py::test_a_udp_client_that_keeps_its_socket_moves_to_the_other_driver[nftables-local]",
    ),
    "what it is told and where from": (
        "test_api.py::test_a_service_labelled_for_us_alone",
        "test_changes_in_place.py::test_edits_take_effect",
        "test_configuration.py::test_a_changed_file_takes_effect_where_it_can",
        "test_late.py::test_manifests_without_our_node_have_no_primary_addresses_which_is_said",
        "test_start.py::test_phases_are_told_at_verbosity_1[manifests]",
    ),
    "local portals": (
        "test_local.py::test_nothing_listens_but_at_portals",
        "test_mishaps.py::test_endpoints_that_are_portals_lead_nobody_in_a_circle",
    ),
    "restarts, take-overs and deaths": (
        "test_succession.py::",
        "test_restarts.py::test_after_a_kill_the_next_start_serves",
        "test_restarts.py::test_without_a_successor_clients_are_accepted_until_the_last_one_has_gone",
        "test_takeover.py::test_health_node_ports_claims_and_the_admin_api_go_on",
        "test_takeover.py::test_a_signal_starts_the_successor_and_systemd_hears_of_it",
        "test_workers.py::test_killed_one_of_two_costs_its_own_connections_and_nothing_else",
    ),
}
"""The beginnings of their names, by what they are about."""

WITHOUT: Final = {
    "test_dashboard.py": "a browser takes long to start, and test_dashboard_succession has one with two anyway",
    "test_demo.py": "the demo starts userproxy itself, as a newcomer would",
    "test_matrix.py": "it is about the tests, and starts no userproxy",
    "test_random_changes.py": "how many there are is left to chance there",
    "test_prometheus.py": "it asks what metrics are called, which is the same with any number of processes",
}
"""Files of which no test is repeated, and why."""

SAYING_HOW_MANY: Final = frozenset({"workers", "before", "after"})
"""Parameters by which a test says itself how many data processes a proxy has."""


def is_chosen(item: pytest.Item) -> bool:
    """Whether a test is of the sample, and is one with as many data processes as all others where it says so itself."""
    name = item.nodeid.rpartition("/")[2]
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    said = {parameters[each] for each in SAYING_HOW_MANY & parameters.keys()}
    return said <= {os.environ["USERPROXY_TEST_WORKERS"]} and any(map(name.startswith, SAMPLE.values()))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if is_chosen(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_sessionfinish(session: pytest.Session) -> None:
    """To be asked for tests of which none is in the sample is no failure."""
    if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK
