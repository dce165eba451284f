"""What has happened in each second between two looks at the admin API's counters. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

Item: TypeAlias = dict[str, Any]
"""An object of the admin API, or a row that is made of one."""

_COUNTERS: Final = {
    "total": "opened_rate",
    "failed": "failed_rate",
    "retried": "retried_rate",
    "bytes_up": "up_rate",
    "bytes_down": "down_rate",
}


def service_key(item: Mapping[str, Any]) -> str:
    """The name of a service port, as the API's `after` has it: ``default/web/http/TCP``."""
    return f"{item['namespace']}/{item['name']}/{item['port']}/{item['protocol']}"


def endpoint_key(item: Mapping[str, Any]) -> str:
    """An endpoint among those of its service port."""
    return str(item["endpoint"])


def with_rates(
    items: Iterable[Item], before: Mapping[str, Item], seconds: float, key: Callable[[Item], str]
) -> dict[str, Item]:
    """The items by their `key`, which each row has, too, with a rate a second beside each counter.

    `before` are the rows of the last look, so many seconds ago. What was not there then has no rates yet: its counters
    began at a time that nobody knows.
    """
    rows = {}
    for item in items:
        name = key(item)
        known = before.get(name)
        rates = {
            rate: _rate(known, item, counter, seconds) if known is not None else 0.0
            for counter, rate in _COUNTERS.items()
            if counter in item
        }
        rows[name] = {"key": name, **item, **rates}
    return rows


def _rate(before: Item, now: Item, counter: str, seconds: float) -> float:
    """By how much a counter grows in a second. One that is smaller than before has begun anew, with another process."""
    grown: float = now[counter] - before[counter]
    return rounded((grown if grown >= 0 else now[counter]) / max(seconds, 1e-3))


def rounded(rate: float) -> float:
    """To three digits: more are noise, and make rows differ that look the same."""
    return float(f"{rate:.3g}")
