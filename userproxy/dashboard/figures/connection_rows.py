"""Connections as the page has them: rows that stay the same as long as nothing happens. Pure."""

from collections.abc import Iterable
from typing import Final

from userproxy.dashboard.figures.rates import Item, rounded

_SAME_SECONDS: Final = 0.5
"""By how much the moment of the last byte may seem to move between two looks, because of the time a look takes."""


class ConnectionRows:
    """The rows of the last look. `began` and `quiet_since` are Unix times, in place of ages that grow by themselves."""

    def __init__(self) -> None:
        self._rows: dict[int, Item] = {}
        self._looked = 0.0

    def update(self, items: Iterable[Item], now: float) -> dict[int, Item]:
        """What the API has at the Unix time `now`, by id. A row that is unchanged is the same object."""
        seconds = max(now - self._looked, 1e-3)
        self._rows = {item["id"]: _row(self._rows.get(item["id"]), item, now, seconds) for item in items}
        self._looked = now
        return self._rows


def _row(before: Item | None, item: Item, now: float, seconds: float) -> Item:
    row = {name: value for name, value in item.items() if name not in ("age_seconds", "idle_seconds")}
    row["began"] = round(now - item["age_seconds"], 3)
    row["quiet_since"] = round(now - item["idle_seconds"], 1)
    row["up_rate"] = row["down_rate"] = 0.0
    if before is None:
        return row
    row["began"] = before["began"]
    if abs(row["quiet_since"] - before["quiet_since"]) < _SAME_SECONDS:
        row["quiet_since"] = before["quiet_since"]
    row["up_rate"] = rounded(max(0, row["bytes_up"] - before["bytes_up"]) / seconds)
    row["down_rate"] = rounded(max(0, row["bytes_down"] - before["bytes_down"]) / seconds)
    return before if row == before else row
