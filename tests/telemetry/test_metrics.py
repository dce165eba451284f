"""The metrics as a scraper reads them."""

from tests.telemetry.moments import Clock
from userproxy.telemetry.health import Health
from userproxy.telemetry.metrics import Metrics
from userproxy.telemetry.observer import SyncReporter

SYNC_BOUNDS = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384]
PROGRAMMING_BOUNDS = [0, 0.25, 0.5, *range(1, 60), *range(60, 116, 5), 120, 150, 180, 210, 240, 270, 300]


async def lines(metrics: Metrics) -> list[str]:
    return (await metrics.render()).decode().splitlines()


async def samples(metrics: Metrics, prefix: str) -> list[str]:
    return [line for line in await lines(metrics) if line.startswith(prefix)]


def bounds(found: list[str]) -> list[float]:
    return [float(line.split('le="')[1].split('"')[0]) for line in found]


async def test_the_names_and_types_are_kube_proxys() -> None:
    metrics = Metrics("0.1.0.dev0")
    types = {line.split(" ", 2)[2] for line in await lines(metrics) if line.startswith("# TYPE k")}
    assert types == {
        "kubeproxy_sync_proxy_rules_duration_seconds histogram",
        "kubeproxy_network_programming_duration_seconds histogram",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds gauge",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending gauge",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total counter",
        "kubeproxy_sync_proxy_rules_service_changes_pending gauge",
        "kubeproxy_sync_proxy_rules_service_changes_total counter",
        "kubeproxy_proxy_healthz_total counter",
        "kubeproxy_proxy_livez_total counter",
        "kubeproxy_sync_proxy_rules_iptables_total gauge",
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total counter",
        "kubernetes_build_info gauge",
    }
    assert not [line for line in await lines(metrics) if "_created" in line]


async def test_the_buckets_are_kube_proxys() -> None:
    metrics = Metrics("0.1.0")
    *syncs, last = await samples(metrics, "kubeproxy_sync_proxy_rules_duration_seconds_bucket")
    assert bounds(syncs) == SYNC_BOUNDS
    assert last == 'kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="+Inf"} 0.0'
    *programming, _ = await samples(metrics, "kubeproxy_network_programming_duration_seconds_bucket")
    assert bounds(programming) == PROGRAMMING_BOUNDS
    assert len(programming) == 81


async def test_a_timestamp_that_is_not_known_does_not_show() -> None:
    metrics = Metrics("0.1.0")
    assert await samples(metrics, "kubeproxy_sync_proxy_rules_last_") == []
    assert await samples(metrics, "kubeproxy_sync_proxy_rules_iptables_total") == []


async def test_values_as_they_are_printed() -> None:
    metrics = Metrics("0.1.0")
    metrics.services_changed(1, pending=1)
    metrics.services_changed(1, pending=2)
    metrics.slices_changed(2)
    metrics.slices_changed(1)
    metrics.rules_written("nat", 12)
    metrics.rules_written("filter", 1)
    metrics.restore_failed()
    metrics.healthz_answered(503)
    metrics.livez_answered(200)
    printed = await lines(metrics)
    for line in (
        "kubeproxy_sync_proxy_rules_service_changes_pending 2.0",
        "kubeproxy_sync_proxy_rules_service_changes_total 2.0",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 3.0",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 3.0",
        'kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"} 12.0',
        'kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="filter"} 1.0',
        'kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family="IPv4"} 1.0',
        'kubeproxy_proxy_healthz_total{code="200"} 0.0',
        'kubeproxy_proxy_healthz_total{code="503"} 1.0',
        'kubeproxy_proxy_livez_total{code="200"} 1.0',
        'kubeproxy_proxy_livez_total{code="503"} 0.0',
    ):
        assert line in printed
    (build,) = await samples(metrics, "kubernetes_build_info")
    assert 'git_version="v0.1.0"' in build
    assert build.endswith(" 1.0")
    assert await samples(metrics, "process_resident_memory_bytes ")
    assert await samples(metrics, "process_open_fds ")


async def test_two_in_one_process_do_not_meet() -> None:
    first, second = Metrics("0.1.0"), Metrics("0.1.0")
    first.restore_failed()
    (line,) = await samples(second, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total")
    assert line.endswith(" 0.0")


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.health = Health(sync_period=30)
        self.metrics = Metrics("0.1.0")
        self.observer = SyncReporter(self.health, self.metrics, self.clock)

    def sync(self, seconds: float, *, ok: bool) -> None:
        self.observer.began()
        self.clock.seconds += seconds
        self.observer.synced(ok=ok, latencies=[0.1, 1.5] if ok else [])


async def test_a_good_sync_shows_everywhere() -> None:
    bench = Bench()
    bench.observer.loop_started()
    bench.clock.seconds = 10
    bench.observer.queued()
    bench.metrics.services_changed(1, pending=1)
    bench.metrics.slices_changed(1)
    bench.sync(0.01, ok=True)
    printed = await lines(bench.metrics)
    for line in (
        'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 1.76732305e+09',
        'kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.008"} 0.0',
        'kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.016"} 1.0',
        'kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 2.0',
        'kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="0.25"} 1.0',
        'kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="2.0"} 2.0',
        "kubeproxy_sync_proxy_rules_service_changes_pending 0.0",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0.0",
        "kubeproxy_sync_proxy_rules_service_changes_total 1.0",
    ):
        assert line in printed
    assert await samples(bench.metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds")
    bench.clock.seconds = 1000
    assert bench.health.healthy(bench.clock())


async def test_a_bad_sync_is_measured_and_leaves_the_change_waiting() -> None:
    bench = Bench()
    bench.observer.loop_started()
    bench.observer.queued()
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
    bench.observer.loop_started()
    assert b'"status":{"IPv4":{"lastUpdated":"2026-01-02T03:04:00Z"' in bench.health.livez(bench.clock()).body
    assert await samples(bench.metrics, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds")
