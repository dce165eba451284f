"""Metrics of the data plane: it keeps plain numbers, which are read when somebody asks for the metrics."""

import typing
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from userproxy.model import Protocol


class DataPlane(typing.Protocol):
    """What is to be known of a data plane. It is asked in another thread than its own."""

    @property
    def handler_failures(self) -> Mapping[Protocol, int]:
        """Clients and datagrams given up because of a bug, by protocol."""


class DataPlaneCollector(Collector):
    """The metrics ``userproxy_*``, for a registry."""

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane

    def collect(self) -> Iterator[Metric]:
        """The present figures."""
        failures = CounterMetricFamily(
            "userproxy_handler_failures", "Clients and datagrams given up because of a bug", labels=["protocol"]
        )
        for protocol, count in self._data_plane.handler_failures.items():
            failures.add_metric([protocol], count)
        yield failures
