"""The metrics as a scraper reads them."""

import pytest

from userproxy.model import IPFamily
from userproxy.telemetry.metrics import Metrics

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
    metrics.count_events({"Service": 2, "EndpointSlice": 3})
    metrics.count_pending(IPFamily.IPV4, lambda: (2, 3))
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
    metrics.count_events({"Service": 2, "EndpointSlice": 3})
    printed = await lines(metrics)
    assert "kubeproxy_sync_proxy_rules_service_changes_total 4.0" in printed
    assert "kubeproxy_sync_proxy_rules_endpoint_changes_total 3.0" in printed
