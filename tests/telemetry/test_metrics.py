"""The metrics as a scraper reads them."""

import pytest

from tests.telemetry.timestamps import Clock, at
from userproxy.model import IPFamily
from userproxy.routing.services import NoLocalEndpoints
from userproxy.telemetry.health import Health
from userproxy.telemetry.metrics import Metrics
from userproxy.telemetry.syncs import SyncReporter

IPV4, BOTH = (IPFamily.IPV4,), tuple(IPFamily)
SYNC_BOUNDS = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384]
PROGRAMMING_BOUNDS = [0, 0.25, 0.5, *range(1, 60), *range(60, 116, 5), 120, 150, 180, 210, 240, 270, 300]


async def lines(metrics: Metrics) -> list[str]:
    return (await metrics.render()).decode().splitlines()


async def samples(metrics: Metrics, prefix: str) -> list[str]:
    return [line for line in await lines(metrics) if line.startswith(prefix)]


def bounds(found: list[str]) -> list[float]:
    return [float(line.split('le="')[1].split('"')[0]) for line in found]


async def test_the_names_and_types_are_kube_proxys() -> None:
    metrics = Metrics("0.1.0.dev0", IPV4)
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
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge",
        "kubeproxy_sync_proxy_rules_iptables_total gauge",
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total counter",
        "kubernetes_build_info gauge",
    }
    assert not [line for line in await lines(metrics) if "_created" in line]


async def test_the_buckets_are_kube_proxys() -> None:
    metrics = Metrics("0.1.0", IPV4)
    *syncs, last = await samples(metrics, "kubeproxy_sync_proxy_rules_duration_seconds_bucket")
    assert bounds(syncs) == SYNC_BOUNDS
    assert last == 'kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="+Inf"} 0.0'
    *programming, _ = await samples(metrics, "kubeproxy_network_programming_duration_seconds_bucket")
    assert bounds(programming) == PROGRAMMING_BOUNDS
    assert len(programming) == 81


async def test_a_timestamp_that_is_not_known_does_not_show() -> None:
    metrics = Metrics("0.1.0", IPV4)
    assert await samples(metrics, "kubeproxy_sync_proxy_rules_last_") == []
    assert await samples(metrics, "kubeproxy_sync_proxy_rules_iptables_total") == []
    assert await samples(metrics, "kubeproxy_sync_proxy_rules_no_local_endpoints_total") == []


async def test_values_as_they_are_printed() -> None:
    metrics = Metrics("0.1.0", IPV4)
    metrics.services_changed(1)
    metrics.services_changed(1)
    metrics.count_pending(IPFamily.IPV4, lambda: (2, 3))
    metrics.slices_changed(2)
    metrics.slices_changed(1)
    family = metrics.family(IPFamily.IPV4)
    family.rules_written("nat", 12)
    family.rules_written("filter", 1)
    family.restore_failed()
    family.no_local_endpoints(internal=3, external=0)
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
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 3.0',
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 0.0',
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
    first, second = Metrics("0.1.0", IPV4), Metrics("0.1.0", IPV4)
    first.family(IPFamily.IPV4).restore_failed()
    (line,) = await samples(second, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total")
    assert line.endswith(" 0.0")


@pytest.mark.parametrize("families", [IPV4, (IPFamily.IPV6,), BOTH])
async def test_each_family_that_is_served_has_its_series(families: tuple[IPFamily, ...]) -> None:
    metrics = Metrics("0.1.0", families)
    for number, family in enumerate(families):
        part = metrics.family(family)
        part.sync_queued(number)
        part.sync_ended(number)
        part.sync_succeeded(number)
        part.endpoints_programmed([number])
        part.no_local_endpoints(internal=number, external=number)
        part.rules_written("nat", number)
        part.restore_failed()
    for name in (
        "duration_seconds_count",
        "last_timestamp_seconds",
        "last_queued_timestamp_seconds",
        "no_local_endpoints_total",
        "iptables_total",
        "iptables_restore_failures_total",
    ):
        found = await samples(metrics, f"kubeproxy_sync_proxy_rules_{name}{{")
        assert {line.split('ip_family="')[1][:4] for line in found} == set(families), name
    everything = await samples(metrics, "kubeproxy_")
    for family in IPFamily:
        assert any(f'ip_family="{family}"' in line for line in everything) is (family in families)
    if families == BOTH:
        rules = await samples(metrics, "kubeproxy_sync_proxy_rules_iptables_total")
        assert [line[-3:] for line in rules] == ["0.0", "1.0"]
    else:
        with pytest.raises(KeyError):
            metrics.family(next(family for family in IPFamily if family not in families))


async def test_what_waits_is_asked_of_each_family_at_each_rendering() -> None:
    metrics, waiting = Metrics("0.1.0", BOTH), dict.fromkeys(BOTH, (0, 0))
    for family in BOTH:
        metrics.count_pending(family, lambda family=family: waiting[family])  # type: ignore[misc]
    for four, six, shown in (((2, 1), (3, 4), (5.0, 5.0)), ((0, 0), (3, 4), (3.0, 4.0)), ((0, 0), (0, 0), (0.0, 0.0))):
        waiting.update(zip(BOTH, (four, six), strict=True))
        printed = await lines(metrics)
        assert f"kubeproxy_sync_proxy_rules_service_changes_pending {shown[0]}" in printed
        assert f"kubeproxy_sync_proxy_rules_endpoint_changes_pending {shown[1]}" in printed


async def test_every_familys_proxy_hears_of_every_service_but_only_of_its_own_slices() -> None:
    metrics = Metrics("0.1.0", BOTH)
    metrics.services_changed(2)
    metrics.slices_changed(3)
    printed = await lines(metrics)
    assert "kubeproxy_sync_proxy_rules_service_changes_total 4.0" in printed
    assert "kubeproxy_sync_proxy_rules_endpoint_changes_total 3.0" in printed


class Bench:
    def __init__(self, families: tuple[IPFamily, ...] = IPV4, family: IPFamily = IPFamily.IPV4) -> None:
        self.clock = Clock()
        self.health = Health(30, families)
        self.metrics = Metrics("0.1.0", families)
        self.observer = SyncReporter(self.health, self.metrics, self.clock, family)

    def sync(self, seconds: float, *, ok: bool, triggers: tuple[float, ...] = ()) -> None:
        self.observer.sync_began()
        self.clock.seconds += seconds
        self.observer.synced(triggers, {}, NoLocalEndpoints(), ok=ok)

    async def latencies(self) -> tuple[float, float]:
        """How many were observed, and their sum."""
        prefix = "kubeproxy_network_programming_duration_seconds"
        ((count,), (total,)) = [await samples(self.metrics, f"{prefix}_{end}{{") for end in ("count", "sum")]
        return float(count.split()[-1]), round(float(total.split()[-1]), 3)


def unix(seconds: float) -> float:
    return at(seconds).wall_ns / 1e9


async def test_a_good_sync_shows_everywhere() -> None:
    bench = Bench()
    bench.observer.loop_started()
    bench.clock.seconds = 10
    bench.observer.queued()
    bench.metrics.services_changed(1)
    bench.metrics.slices_changed(1)
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
    bench.observer.loop_started()
    bench.sync(0.5, ok=True)
    printed = await lines(bench.metrics)
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv6"} 1.0' in printed
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 0.0' in printed
    bench.clock.seconds = 60
    assert bench.health.family(IPFamily.IPV6).healthy(bench.clock())
    assert not bench.health.family(IPFamily.IPV4).healthy(bench.clock())
