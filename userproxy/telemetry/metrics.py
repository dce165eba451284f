"""kube-proxy's Prometheus metrics, those of them that apply to a userspace proxy, under its names.

Label values that are known from the start have their child from the start, so that a rate over a counter
has a zero to begin with. Timestamps and rule counts show only once they are known: a zero would be 1970.
"""

import asyncio
import platform
import sys
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric

_FAMILY: Final = "IPv4"

_SYNC_BUCKETS: Final = tuple(0.001 * 2**power for power in range(15))
_PROGRAMMING_BUCKETS: Final = (0.0, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""Go's names, which every other component of a cluster shows."""


class Metrics:
    """All metrics in a registry of their own; `version` is userproxy's. Others may register more in `registry`."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._make_sync_metrics()
        self._make_change_metrics()
        self._make_health_metrics()
        self._make_iptables_metrics()
        self._describe_build(version)
        ProcessCollector(registry=self.registry)

    def _make_sync_metrics(self) -> None:
        self._sync_seconds = Histogram(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds",
            ["ip_family"],
            buckets=_SYNC_BUCKETS,
            registry=self.registry,
        ).labels(_FAMILY)
        self._programming_seconds = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "Time from the change of an endpoint to its being served, in seconds",
            ["ip_family"],
            buckets=_PROGRAMMING_BUCKETS,
            registry=self.registry,
        ).labels(_FAMILY)
        self._last_sync = self._family_gauge(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "Unix time of the last successful sync"
        )
        self._last_queued = self._family_gauge(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "Unix time at which a sync was last asked for"
        )

    def _family_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["ip_family"], registry=self.registry)

    def _make_change_metrics(self) -> None:
        prefix = "kubeproxy_sync_proxy_rules"
        self._services_pending = Gauge(
            f"{prefix}_service_changes_pending", "Services with changes not yet synced", registry=self.registry
        )
        self._services_changed = Counter(
            f"{prefix}_service_changes_total", "Events about Services", registry=self.registry
        )
        self._slices_pending = Gauge(
            f"{prefix}_endpoint_changes_pending", "Changes of EndpointSlices not yet synced", registry=self.registry
        )
        self._slices_changed = Counter(
            f"{prefix}_endpoint_changes_total", "Events about EndpointSlices", registry=self.registry
        )

    def _make_health_metrics(self) -> None:
        healthz = Counter("kubeproxy_proxy_healthz_total", "Answers of /healthz", ["code"], registry=self.registry)
        livez = Counter("kubeproxy_proxy_livez_total", "Answers of /livez", ["code"], registry=self.registry)
        self._healthz = {status: healthz.labels(str(status)) for status in (200, 503)}
        self._livez = {status: livez.labels(str(status)) for status in (200, 503)}

    def _make_iptables_metrics(self) -> None:
        prefix = "kubeproxy_sync_proxy_rules_iptables"
        self._rules = Gauge(f"{prefix}_total", "Rules of ours", ["table", "ip_family"], registry=self.registry)
        self._restore_failures = Counter(
            f"{prefix}_restore_failures_total", "Failed writes of rules", ["ip_family"], registry=self.registry
        ).labels(_FAMILY)

    def _describe_build(self, version: str) -> None:
        major, minor = version.split(".")[:2]
        machine = platform.machine()
        build = {
            "major": major,
            "minor": minor,
            "git_version": f"v{version}",
            "git_commit": "",
            "git_tree_state": "",
            "build_date": "",
            "go_version": "",
            "compiler": sys.implementation.name,
            "platform": f"{sys.platform}/{_MACHINES.get(machine, machine)}",
        }
        gauge = Gauge("kubernetes_build_info", "What is running, as labels", list(build), registry=self.registry)
        gauge.labels(**build).set(1)

    def sync_queued(self, unix_time: float) -> None:
        self._last_queued.labels(_FAMILY).set(unix_time)

    def sync_ended(self, seconds: float) -> None:
        """Count a sync, good or bad."""
        self._sync_seconds.observe(seconds)

    def sync_succeeded(self, unix_time: float) -> None:
        self._last_sync.labels(_FAMILY).set(unix_time)

    def services_changed(self, count: int, pending: int) -> None:
        """Count events about Services, after which `pending` Services wait for a sync."""
        self._services_changed.inc(count)
        self._services_pending.set(pending)

    def slices_changed(self, count: int) -> None:
        """Count events that changed EndpointSlices."""
        self._slices_changed.inc(count)
        self._slices_pending.inc(count)

    def changes_taken(self) -> None:
        """A sync has taken all pending changes upon itself."""
        self._services_pending.set(0)
        self._slices_pending.set(0)

    def endpoints_programmed(self, latencies: Iterable[float]) -> None:
        """Seconds that each change of an EndpointSlice took until it was served."""
        for seconds in latencies:
            self._programming_seconds.observe(seconds)

    def healthz_answered(self, status: int) -> None:
        self._healthz[status].inc()

    def livez_answered(self, status: int) -> None:
        self._livez[status].inc()

    def rules_written(self, table: str, count: int) -> None:
        """The table now holds `count` rules of ours."""
        self._rules.labels(table, _FAMILY).set(count)

    def restore_failed(self) -> None:
        self._restore_failures.inc()

    async def render(self) -> bytes:
        """All metrics in Prometheus' text format 0.0.4, made in a thread: 76,000 lines take 0.7 s."""
        return await asyncio.to_thread(generate_latest, _WithoutCreation(self.registry))


class _WithoutCreation(CollectorRegistry):
    """A registry's metrics without the ``_created`` series, which kube-proxy does not have.

    The library's own switch for them is global.
    """

    def __init__(self, source: CollectorRegistry) -> None:
        super().__init__()
        self._source = source

    def collect(self) -> Iterable[Metric]:
        for metric in self._source.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
