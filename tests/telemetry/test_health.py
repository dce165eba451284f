"""Healthy or not, eligible or not, and the bodies that say so."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.telemetry.timestamps import at
from userproxy.model import IPFamily, Node
from userproxy.telemetry.health import Answer, Health
from userproxy.telemetry.timestamps import Timestamp

IPV4 = (IPFamily.IPV4,)
WORKER = Node("worker-1")
NOW = Timestamp(1_767_323_045_678_901_234, 100.0)
BEFORE = Timestamp(1_767_323_030_100_000_000, 84.4)


def synced() -> Health:
    health = Health(30, IPV4)
    health.family(IPFamily.IPV4).queued(BEFORE)
    health.family(IPFamily.IPV4).updated(BEFORE)
    return health


def reason(answer: Answer) -> tuple[int, str]:
    """Status, and what the body says against the proxy or its node."""
    text = json.loads(answer.body)["reason"]
    assert isinstance(text, str)
    return answer.status, text


def test_the_sample_of_kube_proxy_1_36() -> None:
    health = synced()
    health.node_seen(WORKER)
    answer = health.healthz(NOW)
    assert answer.status == 200
    assert answer.body == (
        b'{"lastUpdated":"2026-01-02T03:04:05.678901234Z","currentTime":"2026-01-02T03:04:05.678901234Z",'
        b'"nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-01-02T03:03:50.1Z","healthy":true}}}'
    )


def test_livez_does_not_speak_of_the_node() -> None:
    answer = synced().livez(NOW)
    assert answer.status == 200
    assert answer.body == (
        b'{"lastUpdated":"2026-01-02T03:04:05.678901234Z","currentTime":"2026-01-02T03:04:05.678901234Z",'
        b'"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-01-02T03:03:50.1Z","healthy":true}}}'
    )


def test_an_ineligible_node_shows_the_last_update_of_a_healthy_proxy() -> None:
    answer = synced().healthz(NOW)
    assert answer.status == 503
    assert answer.body == (
        b'{"lastUpdated":"2026-01-02T03:03:50.1Z","currentTime":"2026-01-02T03:04:05.678901234Z",'
        b'"nodeEligible":false,"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-01-02T03:03:50.1Z","healthy":true}},'
        b'"reason":"our Node has not been read yet"}'
    )


def test_before_anything_happened_there_is_no_status_and_go_has_no_time() -> None:
    health = Health(30, IPV4)
    answer = health.healthz(NOW)
    assert answer.status == 503
    assert answer.body == (
        b'{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2026-01-02T03:04:05.678901234Z",'
        b'"nodeEligible":false,"healthy":false,'
        b'"reason":"what to serve has not been read yet; our Node has not been read yet"}'
    )
    assert health.livez(NOW).status == 200


def test_a_proxy_that_was_told_nothing_is_not_healthy_though_its_node_is_known() -> None:
    health = Health(30, IPV4)
    health.node_seen(WORKER)
    assert reason(health.healthz(NOW)) == (503, "what to serve has not been read yet")


def test_rules_that_cannot_be_written_are_no_reason_to_die() -> None:
    health = synced()
    health.node_seen(WORKER)
    family = health.family(IPFamily.IPV4)
    for second in range(0, 3600, 30):
        family.turned(at(second))
        family.queued(at(second))
        assert health.livez(at(second)).status == 200
    answer = health.livez(at(3600))
    assert (answer.status, b'"healthy":false' in answer.body) == (200, True)
    assert reason(health.healthz(at(3600))) == (503, "IPv4: changes wait to be served")


def test_a_sync_that_never_ends_is_a_reason_to_die() -> None:
    health = Health(30, tuple(IPFamily))
    for family in IPFamily:
        health.family(family).queued(at(0))
        health.family(family).turned(at(0))
    health.family(IPFamily.IPV4).turned(at(700))
    assert health.livez(at(719)).status == 200
    assert reason(health.livez(at(720))) == (503, "IPv6: the sync is stuck")
    health.family(IPFamily.IPV6).turned(at(721))
    assert health.livez(at(722)).status == 200


def test_a_node_that_is_not_there_is_told_from_one_that_nobody_could_read() -> None:
    health = synced()
    assert reason(health.healthz(NOW)) == (503, "our Node has not been read yet")
    health.ask_for_nodes(lambda: True)
    assert reason(health.healthz(NOW)) == (503, "our Node is not in the API")
    health.node_seen(WORKER)
    assert health.healthz(NOW).status == 200


def test_the_newest_of_two_families_is_shown_and_either_makes_the_proxy_unhealthy() -> None:
    health = Health(30, (IPFamily.IPV6, IPFamily.IPV4))
    health.family(IPFamily.IPV4).updated(at(0))
    health.family(IPFamily.IPV6).updated(at(5))
    health.family(IPFamily.IPV4).queued(at(6))
    health.node_seen(WORKER)
    answer = health.healthz(at(66))
    assert answer.status == 503
    assert answer.body == (
        b'{"lastUpdated":"2026-01-02T03:04:05Z","currentTime":"2026-01-02T03:05:06Z",'
        b'"nodeEligible":true,"healthy":false,"status":'
        b'{"IPv4":{"lastUpdated":"2026-01-02T03:04:00Z","healthy":false},'
        b'"IPv6":{"lastUpdated":"2026-01-02T03:04:05Z","healthy":true}},"reason":"IPv4: changes wait to be served"}'
    )


def test_a_family_that_is_not_served_has_no_part() -> None:
    with pytest.raises(KeyError):
        Health(30, IPV4).family(IPFamily.IPV6)
    health = Health(30, (IPFamily.IPV6,))
    health.family(IPFamily.IPV6).updated(BEFORE)
    assert b'"status":{"IPv6":{"lastUpdated":"2026-01-02T03:03:50.1Z","healthy":true}}}' in health.livez(NOW).body


@pytest.mark.parametrize(
    ("history", "asked", "healthy"),
    [
        ("q0 u0", 1e6, True),
        ("q0", 59.999, True),
        ("q0", 60, False),
        ("q0 q59", 60, False),
        ("u0 q10", 69.999, True),
        ("u0 q10 q50", 70, False),
        ("q0 u30", 1e6, True),
        ("q0 u100", 100, True),
        ("q0 u30 q31", 90.999, True),
        ("q0 u30 q31", 91, False),
    ],
)
def test_the_oldest_change_since_the_last_good_sync_decides(history: str, asked: float, healthy: bool) -> None:
    health = Health(30, IPV4)
    for step in history.split():
        family = health.family(IPFamily.IPV4)
        happen = family.queued if step[0] == "q" else family.updated
        happen(at(float(step[1:])))
    assert health.healthy(at(asked)) is healthy


@pytest.mark.parametrize(("queued", "healthy_at_62"), [(1, True), (2, True), (3, False)])
def test_a_change_that_came_during_a_sync_goes_on_waiting(queued: float, healthy_at_62: bool) -> None:
    health = Health(30, IPV4)
    health.family(IPFamily.IPV4).queued(at(queued))
    health.family(IPFamily.IPV4).updated(at(4), began=at(2))
    assert health.healthy(at(62)) is healthy_at_62


def test_setting_the_clock_changes_nothing() -> None:
    health = Health(30, IPV4)
    health.family(IPFamily.IPV4).queued(at(0))
    assert health.healthy(Timestamp(at(1e6).wall_ns, at(1).monotonic))
    assert not health.healthy(Timestamp(at(-1e6).wall_ns, at(60).monotonic))


@pytest.mark.parametrize(
    ("node", "eligible"),
    [
        (None, False),
        (WORKER, True),
        (Node("worker-1", deleting=True), False),
        (Node("worker-1", taints=("node.kubernetes.io/unschedulable",)), True),
        (Node("worker-1", taints=("dedicated", "ToBeDeletedByClusterAutoscaler")), False),
    ],
)
def test_the_node_counts_for_healthz_alone(node: Node | None, eligible: bool) -> None:
    health = synced()
    if node is not None:
        health.node_seen(node)
    assert health.healthz(NOW).status == (200 if eligible else 503)
    assert health.livez(NOW).status == 200


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=20), st.integers(0, 200))
def test_the_rule_as_kube_proxy_words_it(steps: list[tuple[bool, int]], later: int) -> None:
    health = synced()
    now, waiting = 0, list[int]()
    for is_change, pause in steps:
        now += pause
        if is_change:
            health.family(IPFamily.IPV4).queued(at(now))
            waiting.append(now)
        else:
            health.family(IPFamily.IPV4).updated(at(now))
            waiting.clear()
    now += later
    assert health.healthy(at(now)) is (not waiting or now - min(waiting) < 60)


def test_what_the_node_cannot_serve_is_said_in_a_healthy_answer() -> None:
    health = synced()
    health.node_seen(Node("node-1"))
    health.warn(["12 node ports are not served"])
    for answer in (health.healthz(at(1)), health.livez(at(1))):
        assert (answer.status, json.loads(answer.body)["warnings"]) == (200, ["12 node ports are not served"])
    health.warn([])
    assert "warnings" not in json.loads(health.healthz(at(1)).body)


def test_repairs_that_fail_for_ten_seconds_are_unhealthy_though_nothing_is_queued() -> None:
    health = synced()
    health.node_seen(WORKER)
    family = health.family(IPFamily.IPV4)
    family.failed(at(100))
    family.failed(at(105))
    assert health.healthz(at(109.9)).status == 200
    assert reason(health.healthz(at(110))) == (503, "IPv4: portals cannot be synced")
    assert health.livez(at(110)).status == 200, "a restart would not help"
    family.updated(at(111), at(110))
    assert health.healthz(at(200)).status == 200


def test_failures_count_sooner_where_the_sync_period_is_short() -> None:
    health = Health(1, IPV4)
    health.node_seen(WORKER)
    family = health.family(IPFamily.IPV4)
    family.queued(at(0))
    family.updated(at(0))
    family.failed(at(1))
    assert health.healthz(at(2.9)).status == 200
    assert health.healthz(at(3)).status == 503
