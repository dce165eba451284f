"""What has happened in each second between two looks at the figures. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from userproxy.cli.output.decisions import service_port
from userproxy.cli.output.tables import Item

_COUNTERS: Final = ("total", "bytes_up", "bytes_down", "failed")


class Row(NamedTuple):
    """One service port, endpoint or client. All but `active` and the last two, which are seconds, are per second.

    `errors` are clients that were not served, of an endpoint dials that failed. The times are those within which half
    and 99 percent of the dials succeeded; None where that is not known.
    """

    name: str
    active: int
    connections: float
    bytes_up: float
    bytes_down: float
    errors: float
    dial_p50: float | None = None
    dial_p99: float | None = None


class Look(NamedTuple):
    """The figures at one moment, on a clock that only grows; `items` by a key that stays the same."""

    seconds: float
    items: Mapping[str, Item]


def service_key(item: Item) -> str:
    """The name of a service port as ``get services`` has it."""
    port = f":{item['port']}" if item["port"] else ""
    return f"{item['namespace']}/{item['name']}{port}"


def endpoint_key(item: Item) -> str:
    """An endpoint of a service port."""
    return f"{item['endpoint']} {service_port(item)}"


def service_rows(before: Look, after: Look, endpoints: Iterable[Item]) -> list[Row]:
    """A row for each service port that there is after; dial times are those of its `endpoints`."""
    dials: dict[str, list[Item]] = {}
    for item in endpoints:
        dials.setdefault(service_port(item), []).append(item)
    return [
        row._replace(dial_p50=_middle(dials.get(row.name, ())), dial_p99=_worst(dials.get(row.name, ())))
        for row in _rows(before, after)
    ]


def endpoint_rows(before: Look, after: Look) -> list[Row]:
    """A row for each endpoint that there is after."""
    return [
        row._replace(dial_p50=item["dial_p50_seconds"], dial_p99=item["dial_p99_seconds"])
        for row, item in zip(_rows(before, after), after.items.values(), strict=True)
    ]


def _rows(before: Look, after: Look) -> Iterable[Row]:
    seconds = max(after.seconds - before.seconds, 1e-6)
    for key, item in after.items.items():
        opened, up, down, failed = (_grown(before.items.get(key), item, field) / seconds for field in _COUNTERS)
        yield Row(key, item["active"], opened, up, down, failed)


def _grown(before: Item | None, after: Item, field: str) -> float:
    """By how much a counter has grown. One that is smaller than before has begun anew, with another listener."""
    now: Any = after[field]
    grown = now - (before[field] if before is not None else 0)
    return float(grown if grown >= 0 else now)


def _middle(endpoints: Iterable[Item]) -> float | None:
    """About half of the dials took no longer: the endpoints' own middles, by how often each was used."""
    known = [(each["dial_p50_seconds"], each["total"]) for each in endpoints if each["dial_p50_seconds"] is not None]
    used = sum(total for _, total in known)
    if not used:
        return known[0][0] if known else None
    return float(sum(seconds * total for seconds, total in known) / used)


def _worst(endpoints: Iterable[Item]) -> float | None:
    return max((each["dial_p99_seconds"] for each in endpoints if each["dial_p99_seconds"] is not None), default=None)
