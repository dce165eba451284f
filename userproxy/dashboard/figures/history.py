"""The last minutes of each service port's rates, for its sparkline. Pure."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

SAMPLES: Final = 120
"""Looks that are remembered, one a second unless the proxy has very much to say."""

_RATES: Final = ("opened_rate", "up_rate", "down_rate", "failed_rate", "retried_rate")


class Series(NamedTuple):
    """A second's connections, bytes, clients not served, and clients served after a retry, oldest first."""

    opened: Sequence[float] = ()
    moved: Sequence[float] = ()
    failed: Sequence[float] = ()
    retried: Sequence[float] = ()


_NONE: Final = Series()


class History:
    """The rates of each service port, and of all together.

    A service port that has had no traffic takes no room, and one without trouble none for `failed` and `retried`.
    """

    def __init__(self) -> None:
        self._looks = 0
        self._series: dict[tuple[str, int], deque[float]] = {}
        self._all: deque[tuple[float, ...]] = deque(maxlen=SAMPLES)

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Another look; who was there and is none of `rows` is forgotten."""
        self._looks = min(self._looks + 1, SAMPLES)
        sums = dict.fromkeys(_RATES, 0.0)
        kept = {}
        for row in rows:
            for rate in _RATES:
                sums[rate] += row[rate]
            now = row["opened_rate"], row["up_rate"] + row["down_rate"], row["failed_rate"], row["retried_rate"]
            for place, value in enumerate(now):
                series = self._series.get((row["key"], place))
                if series is None and value:
                    series = deque([0.0] * (self._looks - 1), maxlen=SAMPLES)
                if series is not None:
                    series.append(value)
                    kept[row["key"], place] = series
        self._series = {key: series for key, series in kept.items() if any(series)}
        self._all.append(tuple(sums[rate] for rate in _RATES))

    def of(self, key: str) -> Series:
        """The rates of a service port; empty lists where there was nothing."""
        return Series(*(list(self._series.get((key, place), ())) for place in range(len(_NONE))))

    def of_all(self) -> dict[str, list[float]]:
        """The rates of all service ports together, by name, oldest first."""
        return {rate: [each[place] for each in self._all] for place, rate in enumerate(_RATES)}
