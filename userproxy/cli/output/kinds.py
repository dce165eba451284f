"""The lists that ``userproxy get`` shows: their columns, their names, and what they can be restricted by."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from userproxy.cli.output.decisions import service_port
from userproxy.cli.output.tables import Column, Item
from userproxy.cli.output.units import UNKNOWN, age, amount, latency, limits

NONE: Final = "<none>"
"""What kubectl writes where there is nothing."""


class Kind(NamedTuple):
    """A list of the admin API.

    `names` are those that the command takes, the route's first. `name` is what ``-o name`` has for an item.
    `selectors` are the keys of ``-l``.
    """

    names: tuple[str, ...]
    singular: str
    columns: tuple[Column, ...]
    name: Callable[[Item], str]
    selectors: frozenset[str] = frozenset()

    @property
    def route(self) -> str:
        """Where the admin API has it, and what the list is called."""
        return self.names[0]


def _plain(field: str, heading: str = "", *, wide: bool = False) -> Column:
    """The field as it is."""

    def text(item: Item) -> str:
        value = item[field]
        return UNKNOWN if value is None else str(value) or NONE

    return Column(heading or field.upper().replace("_", "-"), text, wide)


def _figure(field: str, heading: str, unit: Callable[[float | None], str], *, wide: bool = False) -> Column:
    return Column(heading, lambda item: unit(item[field]), wide)


def _switch(field: str, heading: str = "", *, wide: bool = False) -> Column:
    return Column(heading or field.upper().replace("_", "-"), lambda item: str(item[field]).lower(), wide)


def _joined(values: Iterable[Any]) -> str:
    return ",".join(map(str, values)) or NONE


def _endpoints(item: Item) -> str:
    counts: Mapping[str, int] = item["endpoints"]
    return f"{counts['usable']}/{counts['all']}"


_BYTES = (_figure("bytes_up", "UP", amount), _figure("bytes_down", "DOWN", amount))
_SERVICE_PORT = Column("SERVICE", service_port)

SERVICES: Final = Kind(
    ("services", "service", "svc"),
    "service",
    (
        _plain("namespace"),
        _plain("name"),
        _plain("port"),
        _plain("protocol"),
        Column("ENDPOINTS", _endpoints),
        _plain("active"),
        _plain("total"),
        _plain("failed"),
        _plain("retried"),
        *_BYTES,
        _plain("balancer", wide=True),
        _plain("affinity", wide=True),
        _plain("client_address", wide=True),
        _plain("proxy_protocol", "SENDS-PROXY", wide=True),
        _plain("accept_proxy_protocol", "ACCEPTS-PROXY", wide=True),
        Column("LIMITS", lambda item: limits(item["limits"]), wide=True),
        _plain("limited", wide=True),
        _plain("waiting", wide=True),
        Column("PORTALS", lambda item: _joined(item["portals"]), wide=True),
    ),
    lambda item: f"service/{item['namespace']}/{item['name']}" + (f":{item['port']}" if item["port"] else ""),
    frozenset({"endpoint", "protocol"}),
)

ENDPOINTS: Final = Kind(
    ("endpoints", "endpoint", "ep"),
    "endpoint",
    (
        _SERVICE_PORT,
        _plain("endpoint"),
        _switch("ready"),
        _switch("usable"),
        _plain("active"),
        _plain("total"),
        _plain("failed"),
        _figure("dial_p50_seconds", "DIAL-P50", latency),
        _figure("dial_p99_seconds", "DIAL-P99", latency),
        _plain("node", wide=True),
        _plain("zone", wide=True),
        _switch("serving", wide=True),
        _switch("terminating", wide=True),
        _plain("weight", wide=True),
        *(column._replace(wide=True) for column in _BYTES),
        _plain("reason"),
    ),
    lambda item: f"endpoint/{item['endpoint']}",
    frozenset({"endpoint", "protocol"}),
)

CONNECTIONS: Final = Kind(
    ("connections", "connection", "conn"),
    "connection",
    (
        _plain("id"),
        _SERVICE_PORT,
        _plain("protocol"),
        _plain("client"),
        _plain("endpoint"),
        _plain("state"),
        _figure("age_seconds", "AGE", age),
        _figure("idle_seconds", "IDLE", age),
        *_BYTES,
        _plain("retries"),
        Column("FAULTS", lambda item: item.get("faults") or NONE, wide=True),
        _plain("portal", wide=True),
        _figure("dial_seconds", "DIAL", latency, wide=True),
        _plain("source", wide=True),
        _plain("source_address", wide=True),
    ),
    lambda item: f"connection/{item['id']}",
    frozenset({"client", "endpoint", "id", "protocol", "state"}),
)

PORTALS: Final = Kind(
    ("portals", "portal"),
    "portal",
    (
        _plain("portal"),
        _plain("kind"),
        _plain("protocol"),
        _SERVICE_PORT,
        _plain("local_port"),
        _plain("driver"),
        _switch("in_sync"),
    ),
    lambda item: f"portal/{item['portal']}/{item['protocol']}",
    frozenset({"protocol"}),
)

KINDS: Final[Mapping[str, Kind]] = {
    name: kind for kind in (SERVICES, ENDPOINTS, CONNECTIONS, PORTALS) for name in kind.names
}
"""By each of their names."""
