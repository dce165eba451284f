"""What becomes of a sync in health and metrics."""

import pytest

from tests.telemetry.test_metrics import lines, samples
from tests.telemetry.timestamps import Clock, at
from userproxy.addresses import IPFamily
from userproxy.routing.services import NoLocalEndpoints
from userproxy.telemetry.health import Health
from userproxy.telemetry.metrics import Metrics
from userproxy.telemetry.syncs import SyncReporter

IPV4, BOTH = (IPFamily.IPV4,), tuple(IPFamily)


class Bench:
    def __init__(self, families: tuple[IPFamily, ...] = IPV4, family: IPFamily = IPFamily.IPV4) -> None:
        self.clock = Clock()
        self.health = Health(30, families)
        self.metrics = Metrics("0.1.0", families)
        self.reporter = SyncReporter(self.health, self.metrics, self.clock, family)

    def sync(self, seconds: float, *, ok: bool, triggers: tuple[float, ...] = ()) -> None:
        self.reporter.sync_began()
        self.clock.seconds += seconds
        self.reporter.synced(triggers, {}, NoLocalEndpoints(), ok=ok)

    async def latencies(self) -> tuple[float, float]:
        """How many were observed, and their sum."""
        prefix = "kubeproxy_network_programming_duration_seconds"
        ((count,), (total,)) = [await samples(self.metrics, f"{prefix}_{end}{{") for end in ("count", "sum")]
        return float(count.split()[-1]), round(float(total.split()[-1]), 3)


def unix(seconds: float) -> float:
    return at(seconds).wall_ns / 1e9


async def test_a_good_sync_shows_everywhere() -> None:
    bench = Bench()
    bench.reporter.loop_started()
    bench.clock.seconds = 10
    bench.reporter.queued()
    bench.metrics.count_events({"Service": 1, "EndpointSlice": 2})
    bench.sync(0.01, ok=True, triggers=(unix(9.91), unix(8.51)))
    printed = await lines(bench.metrics)
    for line in (
        'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 1.76732305e+09',
        'kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.008"} 0.0',
        'kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.016"} 1.0',
        'kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 2.0',
        'kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="0.25"} 1.0',
        'kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="2.0"} 2.0',
        "kubeproxy_sync_proxy_rules_service_changes_total 1.0",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 2.0",
    ):
        assert line in printed
    assert await samples(bench.metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds")
    bench.clock.seconds = 1000
    assert bench.health.healthy(bench.clock())


async def test_a_bad_sync_is_measured_and_leaves_the_change_waiting() -> None:
    bench = Bench()
    bench.reporter.loop_started()
    bench.reporter.queued()
    bench.sync(0.5, ok=False)
    (count,) = await samples(bench.metrics, "kubeproxy_sync_proxy_rules_duration_seconds_count")
    assert count.endswith(" 1.0")
    assert await samples(bench.metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds") == []
    bench.clock.seconds = 60
    assert not bench.health.healthy(bench.clock())
    bench.sync(0.5, ok=True)
    assert bench.health.healthy(bench.clock())


async def test_starting_the_loop_counts_as_an_update() -> None:
    bench = Bench()
    bench.reporter.loop_started()
    assert b'"status":{"IPv4":{"lastUpdated":"2026-01-02T03:04:00Z"' in bench.health.livez(bench.clock()).body
    assert await samples(bench.metrics, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds")


async def test_what_a_bad_sync_took_is_observed_once_a_sync_is_good() -> None:
    bench = Bench()
    bench.clock.seconds = 10
    bench.sync(1, ok=False, triggers=(unix(9), unix(10)))
    bench.sync(1, ok=False)
    assert await bench.latencies() == (0.0, 0.0)
    bench.sync(1, ok=True, triggers=(unix(12),))
    assert await bench.latencies() == (3.0, 4.0 + 3.0 + 1.0)
    bench.sync(1, ok=True)
    assert await bench.latencies() == (3.0, 8.0)


async def test_a_clock_ahead_of_ours_makes_no_negative_latency() -> None:
    bench = Bench()
    bench.clock.seconds = 5
    bench.sync(0, ok=True, triggers=(unix(0), unix(7)))
    assert await bench.latencies() == (2.0, 5.0)


async def test_a_proxy_that_never_succeeds_keeps_the_newest_changes() -> None:
    bench = Bench()
    bench.sync(100, ok=False, triggers=tuple(unix(second / 1000) for second in range(10_100)))
    bench.sync(0, ok=True)
    count, total = await bench.latencies()
    assert count == 10_000
    assert total < 10_000 * (100 - 0.1)


async def test_reporters_of_two_families_do_not_meet() -> None:
    bench = Bench(BOTH, IPFamily.IPV6)
    SyncReporter(bench.health, bench.metrics, bench.clock, IPFamily.IPV4).queued()
    bench.reporter.loop_started()
    bench.sync(0.5, ok=True)
    printed = await lines(bench.metrics)
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv6"} 1.0' in printed
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 0.0' in printed
    bench.clock.seconds = 60
    assert bench.health.family(IPFamily.IPV6).healthy(bench.clock())
    assert not bench.health.family(IPFamily.IPV4).healthy(bench.clock())


async def test_what_is_followed_without_a_sync_counts_as_one_from_when_it_began() -> None:
    bench = Bench()
    bench.reporter.queued()
    bench.clock.seconds = 10
    bench.reporter.follow_began()
    bench.clock.seconds = 10.5
    bench.reporter.queued()
    bench.reporter.followed((unix(8.5),), {}, NoLocalEndpoints())
    (total,) = await samples(bench.metrics, "kubeproxy_sync_proxy_rules_duration_seconds_sum")
    assert total.endswith(" 0.5")
    assert await bench.latencies() == (1.0, 2.0)
    bench.clock.seconds = 69.9
    assert bench.health.healthy(bench.clock())
    bench.clock.seconds = 70
    assert not bench.health.healthy(bench.clock()), "what was queued meanwhile waits since it began"


@pytest.mark.parametrize(("ok", "failures"), [(True, 0.0), (False, 1.0)])
async def test_each_sync_shows_the_rules_and_whether_they_could_be_written(ok: bool, failures: float) -> None:
    bench = Bench()
    bench.reporter.sync_began()
    bench.reporter.synced((), {"nat": 12, "filter": 3}, NoLocalEndpoints(internal=2, external=1), ok=ok)
    printed = await lines(bench.metrics)
    for line in (
        'kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"} 12.0',
        'kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="filter"} 3.0',
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 2.0',
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 1.0',
        f'kubeproxy_sync_proxy_rules_iptables_restore_failures_total{{ip_family="IPv4"}} {failures}',
    ):
        assert line in printed


async def test_what_is_followed_at_once_was_queued_when_it_began_and_leaves_nothing_waiting() -> None:
    bench = Bench()
    bench.reporter.queued()
    bench.sync(0, ok=True)
    bench.clock.seconds = 10
    bench.reporter.follow_began()
    bench.clock.seconds = 10.5
    bench.reporter.followed_at_once((unix(8.5),))
    printed = await lines(bench.metrics)
    assert 'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 1.76732305e+09' in printed
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family="IPv4"} 0.5' in printed
    assert await bench.latencies() == (1.0, 2.0)
    bench.clock.seconds = 1000
    assert bench.health.healthy(bench.clock())
