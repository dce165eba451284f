"""The last minutes of each service port's rates, for its sparkline. Pure."""

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

SAMPLES: Final = 120
"""Looks that are remembered, one a second unless the proxy has very much to say."""

_RATES: Final = ("opened_rate", "up_rate", "down_rate", "failed_rate", "retried_rate")


class History:
    """Connections and bytes a second of each service port, and of all together.

    A service port that has had no traffic takes no room.
    """

    def __init__(self) -> None:
        self._looks = 0
        self._series: dict[str, tuple[deque[float], deque[float]]] = {}
        self._all: deque[tuple[float, ...]] = deque(maxlen=SAMPLES)

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Another look; who was there and is none of `rows` is forgotten."""
        self._looks = min(self._looks + 1, SAMPLES)
        sums = dict.fromkeys(_RATES, 0.0)
        kept = {}
        for row in rows:
            for rate in _RATES:
                sums[rate] += row[rate]
            opened, moved = row["opened_rate"], row["up_rate"] + row["down_rate"]
            series = self._series.get(row["key"])
            if series is None and (opened or moved):
                series = _zeros(self._looks - 1), _zeros(self._looks - 1)
            if series is not None:
                series[0].append(opened)
                series[1].append(moved)
                kept[row["key"]] = series
        self._series = {key: series for key, series in kept.items() if any(series[0]) or any(series[1])}
        self._all.append(tuple(sums[rate] for rate in _RATES))

    def of(self, key: str) -> tuple[list[float], list[float]]:
        """Connections and bytes a second of a service port, oldest first; empty lists if there were none."""
        opened, moved = self._series.get(key, ((), ()))
        return list(opened), list(moved)

    def of_all(self) -> dict[str, list[float]]:
        """The rates of all service ports together, by name, oldest first."""
        return {rate: [each[place] for each in self._all] for place, rate in enumerate(_RATES)}


def _zeros(count: int) -> deque[float]:
    return deque([0.0] * count, maxlen=SAMPLES)
