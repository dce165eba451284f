"""Metrics of the data plane, which keeps plain numbers that are read only when metrics are rendered."""

import typing
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from userproxy.model import Protocol


class DataPlane(typing.Protocol):
    """The figures of the data plane, which are read in another thread than its own."""

    @property
    def handler_failures(self) -> Mapping[Protocol, int]:
        """Clients and datagrams given up because of a bug, by protocol."""

    @property
    def evicted(self) -> Mapping[Protocol, int]:
        """Connections and flows that were closed to make room for others, by protocol."""


class DataPlaneCollector(Collector):
    """The metrics ``userproxy_*``, for a registry."""

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane

    def collect(self) -> Iterator[Metric]:
        """The present figures."""
        data_plane = self._data_plane
        text = "Clients and datagrams given up because of a bug"
        yield _by_protocol("userproxy_handler_failures", text, data_plane.handler_failures)
        text = "Connections and UDP flows that made room for others, because descriptors or flows ran short"
        yield _by_protocol("userproxy_evicted", text, data_plane.evicted)


def _by_protocol(name: str, text: str, counts: Mapping[Protocol, int]) -> Metric:
    counter = CounterMetricFamily(name, text, labels=["protocol"])
    for protocol, count in counts.items():
        counter.add_metric([protocol], count)
    return counter
