"""Histograms that cost two steps to observe: the library's take a lock and six calls for each value."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString


class Observations:
    """The values of one series. One thread observes; another one may count them at any time."""

    __slots__ = ("_bounds", "_sum", "counts")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """How many values are at most each bound and beyond the one before; the last one is of what is beyond all."""
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def sum(self) -> float:
        """Of all values."""
        return self._sum


class Histogram(Collector):
    """A histogram with one label, and buckets up to each of the `bounds`, which are in order."""

    def __init__(self, name: str, text: str, label: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._label = name, text, label
        self._bounds = tuple(map(float, bounds))
        self._texts = [floatToGoString(bound) for bound in (*self._bounds, INF)]  # type: ignore[no-untyped-call]
        self._series: dict[str, Observations] = {}

    def of(self, value: str) -> Observations:
        """The series with this value of the label, which is shown from now on."""
        return self._series.setdefault(value, Observations(self._bounds))

    def collect(self) -> Iterator[Metric]:
        """For a registry."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        for value, series in self._series.items():
            counts = accumulate(tuple(series.counts))
            family.add_metric([value], list(zip(self._texts, map(float, counts), strict=True)), series.sum)
        yield family
