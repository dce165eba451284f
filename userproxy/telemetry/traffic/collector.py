"""Asks the data plane for its figures, and makes metrics of them: ``userproxy_*``."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from userproxy.model import Protocol, Verdict
from userproxy.model.data_plane import DataPlane
from userproxy.model.reports import ListenerFigures, ProcessFigures, SourceFallback
from userproxy.telemetry.traffic.families import COUNTERS, GAUGES, Column, Counters, Gauges
from userproxy.telemetry.traffic.series import Series, SeriesTable

_LONGEST_PAUSE: Final = 2.0
_PAUSES: Final = 9
"""After asking for a time, nine times as long passes until it is asked again: whoever may read metrics could otherwise
have the loop busy with nothing else."""

_LABELS: Final = ("namespace", "service", "port", "protocol")

_PROCESS_GAUGES: Final[tuple[tuple[str, str, Callable[[ProcessFigures], float]], ...]] = (
    ("descriptors", "Open file descriptors", lambda each: each.descriptors),
    ("descriptors_limit", "The most file descriptors that may be open", lambda each: each.descriptor_limit),
    ("pipes", "Pipes for splice(2), in use and idle", lambda each: each.pipes),
    ("loop_lag_seconds", "Longest delay of the event loop within 10 s", lambda each: each.loop_lag_seconds),
)


class DataPlaneCollector(Collector):
    """The metrics of a data plane, for a registry. At most `most` service ports have series of their own.

    :meth:`ask` belongs to the event loop. :meth:`collect` may be called in any other thread, but only once at a time.
    """

    def __init__(self, data_plane: DataPlane, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._data_plane = data_plane
        self._clock = clock
        self._table = SeriesTable(most)
        self._listeners: Sequence[ListenerFigures] = ()
        self._closed: Sequence[ListenerFigures] = ()
        self._processes: Sequence[ProcessFigures] = ()
        self._asking_seconds = 0.0
        self._not_before = 0.0

    async def ask(self) -> None:
        """Get the figures of now, which :meth:`collect` will show. Waits where this was just done at length."""
        await asyncio.sleep(max(0.0, self._not_before - self._clock()))
        began = self._clock()
        self._listeners = await self._data_plane.listeners()
        self._closed = await self._data_plane.closed_listeners()
        self._processes = await self._data_plane.processes()
        ended = self._clock()
        self._asking_seconds = ended - began
        self._not_before = ended + min(_LONGEST_PAUSE, _PAUSES * self._asking_seconds)

    def collect(self) -> Iterator[Metric]:
        """The figures that were asked for last."""
        listeners = self._listeners
        self._table.take(listeners, self._clock(), self._closed)
        series = tuple(self._table)
        yield from _families(COUNTERS, [(each, each.counts) for each in series])
        yield from _families(GAUGES, [(each, each.gauges) for each in series])
        yield self._service_ports()
        yield _listeners(listeners)
        yield from _of_processes(self._processes)
        yield GaugeMetricFamily(
            "userproxy_metrics_collection_seconds",
            "How long the data plane was asked for these figures, serving traffic meanwhile",
            self._asking_seconds,
        )

    def _service_ports(self) -> Metric:
        text = "Service ports with series of their own, and those that are summed up as _rest"
        gauge = GaugeMetricFamily("userproxy_service_ports", text, labels=["series"])
        gauge.add_metric(["own"], self._table.shown_alone)
        gauge.add_metric(["rest"], self._table.in_rest)
        return gauge


def _families(
    families: Sequence[Counters] | Sequence[Gauges], series: Sequence[tuple[Series, Sequence[float]]]
) -> Iterator[Metric]:
    """All samples of the families; each series has the values of all of them, one after the other."""
    begin = 0
    labelled = [(each.name.protocol, _labels(each), values) for each, values in series]
    for family in families:
        metric = Metric(family.name, family.text, family.type)
        for protocol, labels, values in labelled:
            if protocol in family.protocols:
                _add(metric, family.columns, labels, values[begin:])
        begin += len(family.columns)
        yield metric


def _add(metric: Metric, columns: Iterable[Column], labels: Mapping[str, str], values: Iterable[float]) -> None:
    for column, value in zip(columns, values, strict=False):
        metric.add_sample(metric.name + column.suffix, {**labels, **column.labels}, value)


def _labels(series: Series) -> dict[str, str]:
    name = series.name
    return dict(zip(_LABELS, (name.namespace, name.name, name.port, name.protocol.value), strict=True))


def _listeners(listeners: Iterable[ListenerFigures]) -> Metric:
    gauge = GaugeMetricFamily("userproxy_listeners", "Listeners, by what becomes of new clients", labels=["verdict"])
    counts = Counter(each.verdict for each in listeners)
    for verdict in Verdict:
        gauge.add_metric([verdict.value], counts[verdict])
    return gauge


def _of_processes(processes: Sequence[ProcessFigures]) -> Iterator[Metric]:
    """Each process is known by its place, since there are ever new process ids."""
    for name, text, value in _PROCESS_GAUGES:
        gauge = GaugeMetricFamily(f"userproxy_{name}", text, labels=["process"])
        for place, each in enumerate(processes):
            gauge.add_metric([str(place)], value(each))
        yield gauge
    yield _clients(processes)
    yield _restarts(processes)
    text = "Connections and UDP flows that made room for others, because descriptors or flows ran short"
    yield _by_protocol("userproxy_evicted", text, [each.evicted for each in processes])
    yield _source_fallbacks(processes)
    yield GaugeMetricFamily("userproxy_faults", "Faults in force", max((each.faults for each in processes), default=0))
    text = "Connections and UDP flows that were made to suffer faults"
    yield CounterMetricFamily("userproxy_faulted_connections", text, sum(each.faulted for each in processes))
    text = "Clients and datagrams given up because of a bug"
    yield _by_protocol("userproxy_handler_failures", text, [each.handler_failures for each in processes])


def _restarts(processes: Iterable[ProcessFigures]) -> Metric:
    """Of all processes but the control process; where one does everything it ends with what it counts."""
    text = "Data processes that have ended and were replaced"
    counter = CounterMetricFamily("userproxy_data_process_restarts", text, labels=["process"])
    for place, each in enumerate(processes):
        if each.role != "control":
            counter.add_metric([str(place)], each.restarts)
    return counter


def _clients(processes: Iterable[ProcessFigures]) -> Metric:
    text = "Connections and UDP flows now, those of Services that are gone included"
    gauge = GaugeMetricFamily("userproxy_process_connections", text, labels=["process", "protocol"])
    for place, each in enumerate(processes):
        gauge.add_metric([str(place), Protocol.TCP.value], each.connections)
        gauge.add_metric([str(place), Protocol.UDP.value], each.flows)
    return gauge


def _source_fallbacks(processes: Sequence[ProcessFigures]) -> Metric:
    text = "Connections and UDP flows that endpoints see from the node's address although the client's was to be kept"
    counter = CounterMetricFamily("userproxy_client_address_fallbacks", text, labels=["reason"])
    for reason in SourceFallback:
        counter.add_metric([reason.value], sum(each.source_fallbacks.get(reason, 0) for each in processes))
    return counter


def _by_protocol(name: str, text: str, counts: Sequence[Mapping[Protocol, int]]) -> Metric:
    counter = CounterMetricFamily(name, text, labels=["protocol"])
    for protocol in (Protocol.TCP, Protocol.UDP):
        counter.add_metric([protocol.value], sum(each.get(protocol, 0) for each in counts))
    return counter
