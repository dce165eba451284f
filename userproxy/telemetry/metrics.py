"""kube-proxy's Prometheus metrics, as far as they apply to a userspace proxy, under its names, and our own.

Series whose labels are known from the start exist from the start, so that a rate over a counter begins with a zero.
Timestamps and what a sync counts are shown only once they are known: a zero would be the year 1970.
"""

import asyncio
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from userproxy.model import IPFamily, ProblemKind
from userproxy.model.data_plane import DataPlane
from userproxy.telemetry.histograms import Histogram
from userproxy.telemetry.traffic.collector import DataPlaneCollector

_SYNC_BUCKETS: Final = tuple(0.001 * 2**power for power in range(15))
_PROGRAMMING_BUCKETS: Final = (0.0, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))

_FAMILY: Final = "ip_family"

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""Go's names, which every other component of a cluster shows."""


class _FamilyVectors:
    """All metrics with the label ``ip_family``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix, labels = "kubeproxy_sync_proxy_rules", [_FAMILY]
        self.sync_seconds = Histogram(
            f"{prefix}_duration_seconds", "SyncProxyRules latency in seconds", _FAMILY, _SYNC_BUCKETS
        )
        self.programming_seconds = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "Time from the change of an endpoint to its being served, in seconds",
            _FAMILY,
            _PROGRAMMING_BUCKETS,
        )
        registry.register(self.sync_seconds)
        registry.register(self.programming_seconds)
        self.last_sync = Gauge(
            f"{prefix}_last_timestamp_seconds", "Unix time of the last successful sync", labels, registry=registry
        )
        self.last_queued = Gauge(
            f"{prefix}_last_queued_timestamp_seconds",
            "Unix time at which a sync was last asked for",
            labels,
            registry=registry,
        )
        self.no_local_endpoints = Gauge(
            f"{prefix}_no_local_endpoints_total",
            "Service ports with a Local traffic policy that have endpoints on other nodes only",
            ["traffic_policy", *labels],
            registry=registry,
        )
        self.rules = Gauge(f"{prefix}_iptables_total", "Rules of ours", ["table", *labels], registry=registry)
        self.restore_failures = Counter(
            f"{prefix}_iptables_restore_failures_total", "Failed writes of rules", labels, registry=registry
        )


class _EventCounters(Collector):
    """How many changes the source has told of, counted elsewhere and asked for when they are shown.

    Each about a Service counts once for each family, as in kube-proxy, where every family's proxy hears of every
    Service.
    """

    def __init__(self, families: int) -> None:
        self._families = families
        self.events: Mapping[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        prefix = "kubeproxy_sync_proxy_rules"
        services, slices = self.events.get("Service", 0) * self._families, self.events.get("EndpointSlice", 0)
        yield CounterMetricFamily(f"{prefix}_service_changes", "Events about Services", value=services)
        yield CounterMetricFamily(f"{prefix}_endpoint_changes", "Events about EndpointSlices", value=slices)


class _Kept:
    """The children of a gauge, kept after the first use, because to look one up costs more than to set it."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._children: dict[tuple[str, ...], Gauge] = {}
        self._values: dict[tuple[str, ...], float] = {}

    def set(self, value: float, *labels: str) -> None:
        if self._values.get(labels) == value:
            return  # most figures stay as they are at a change
        self._values[labels] = value
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._gauge.labels(*labels)
        child.set(value)


class _Latest:
    """A figure that is another one at each change, and that a gauge asks for when it is shown. None until it is set."""

    def __init__(self, gauge: Gauge, *labels: str) -> None:
        self._gauge = gauge
        self._labels = labels
        self._value: float | None = None

    def set(self, value: float) -> None:
        if self._value is None:
            self._gauge.labels(*self._labels).set_function(lambda: self._value or 0.0)
        self._value = value


class FamilyMetrics:
    """The metrics of one IP family's proxy. Made by :class:`Metrics`."""

    def __init__(self, vectors: _FamilyVectors, family: IPFamily) -> None:
        self._family = family.value
        self._last_queued = _Latest(vectors.last_queued, family.value)
        self._last_sync = _Latest(vectors.last_sync, family.value)
        self._no_local = _Kept(vectors.no_local_endpoints)
        self._rules = _Kept(vectors.rules)
        self._sync_seconds = vectors.sync_seconds.of(self._family)
        self._programming_seconds = vectors.programming_seconds.of(self._family)
        self._restore_failures = vectors.restore_failures.labels(self._family)

    def sync_queued(self, unix_time: float) -> None:
        """A sync was requested."""
        self._last_queued.set(unix_time)

    def sync_ended(self, seconds: float) -> None:
        """Count a sync, whether it succeeded or not."""
        self._sync_seconds.observe(seconds)

    def sync_succeeded(self, unix_time: float) -> None:
        """A sync has succeeded."""
        self._last_sync.set(unix_time)

    def endpoints_programmed(self, latencies: Iterable[float]) -> None:
        """Observe how many seconds each change of an EndpointSlice took until it was served."""
        for seconds in latencies:
            self._programming_seconds.observe(seconds)

    def no_local_endpoints(self, *, internal: int, external: int) -> None:
        """How many service ports have a ``Local`` policy and endpoints on other nodes only.

        `internal` counts ``internalTrafficPolicy``, `external` ``externalTrafficPolicy``.
        """
        self._no_local.set(internal, "internal", self._family)
        self._no_local.set(external, "external", self._family)

    def rules_written(self, table: str, count: int) -> None:
        """Set how many rules of ours `table` has now."""
        self._rules.set(count, table, self._family)

    def restore_failed(self) -> None:
        """Count a failed write of rules."""
        self._restore_failures.inc()


class Metrics:
    """All metrics in a registry of their own.

    `version` is userproxy's. Only the `families` that are served have series."""

    def __init__(self, version: str, families: Iterable[IPFamily]) -> None:
        self.registry = CollectorRegistry()
        vectors = _FamilyVectors(self.registry)
        self._families = {family: FamilyMetrics(vectors, family) for family in families}
        self._pending: dict[IPFamily, Callable[[], tuple[int, int]]] = {}
        self._data_plane: DataPlaneCollector | None = None
        self._one_at_a_time = asyncio.Lock()
        self._make_change_metrics()
        self._make_health_metrics()
        self._describe_build(version)
        ProcessCollector(registry=self.registry)

    def _make_change_metrics(self) -> None:
        prefix = "kubeproxy_sync_proxy_rules"
        self._events = _EventCounters(len(self._families))
        self.registry.register(self._events)
        gauges = {
            "service": "Services with changes not yet synced, of each family",
            "endpoint": "Changes of EndpointSlices not yet synced, of each family",
        }
        for index, (kind, text) in enumerate(gauges.items()):
            gauge = Gauge(f"{prefix}_{kind}_changes_pending", text, registry=self.registry)
            gauge.set_function(partial(self._sum_pending, index))

    def _make_health_metrics(self) -> None:
        problems = Gauge(
            "userproxy_problems", "What is wanted of Services and not served", ["kind"], registry=self.registry
        )
        self._problems = {kind: problems.labels(kind.value) for kind in ProblemKind}
        healthz = Counter("kubeproxy_proxy_healthz_total", "Answers of /healthz", ["code"], registry=self.registry)
        livez = Counter("kubeproxy_proxy_livez_total", "Answers of /livez", ["code"], registry=self.registry)
        self._healthz = {status: healthz.labels(str(status)) for status in (200, 503)}
        self._livez = {status: livez.labels(str(status)) for status in (200, 503)}

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

    def family(self, family: IPFamily) -> "FamilyMetrics":
        """The part of one family; KeyError for one that is not served."""
        return self._families[family]

    def count_pending(self, family: IPFamily, pending: Callable[[], tuple[int, int]]) -> None:
        """Call `pending` at each rendering, in another thread: it returns how many Services and how many changes of
        EndpointSlices wait for the next sync of a family. The metrics show the sum of all families.
        """
        self._pending[family] = pending

    def _sum_pending(self, index: int) -> float:
        return sum(pending()[index] for pending in self._pending.values())

    def count_events(self, events: Mapping[str, int]) -> None:
        """Show how many changes the source has told of, by kind of object: a live view."""
        self._events.events = events

    def problems_are(self, counts: Mapping[ProblemKind, int]) -> None:
        """Set how many problems of each kind there are now; a kind that is not in `counts` has none."""
        for kind, gauge in self._problems.items():
            gauge.set(counts.get(kind, 0))

    def healthz_answered(self, status: int) -> None:
        self._healthz[status].inc()

    def livez_answered(self, status: int) -> None:
        self._livez[status].inc()

    def watch(self, data_plane: DataPlane, most_services: int) -> None:
        """Ask the data plane for its figures at each rendering.

        At most `most_services` service ports have series of their own.
        """
        self._data_plane = DataPlaneCollector(data_plane, most_services)
        self.registry.register(self._data_plane)

    async def render(self) -> bytes:
        """All metrics in Prometheus' text format 0.0.4. It runs in a thread: 76,000 lines take 0.7 s.

        One rendering at a time: a client that asks often must not use up all threads.
        """
        async with self._one_at_a_time:
            if self._data_plane is not None:
                await self._data_plane.ask()
            return await asyncio.to_thread(generate_latest, _WithoutCreation(self.registry))


class _WithoutCreation(CollectorRegistry):
    """A registry's metrics without the ``_created`` series, which kube-proxy does not have either.

    The library can switch these off only for the whole process.
    """

    def __init__(self, source: CollectorRegistry) -> None:
        super().__init__()
        self._source = source

    def collect(self) -> Iterable[Metric]:
        for metric in self._source.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
