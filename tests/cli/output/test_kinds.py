"""The lists of ``get``, against what the admin API says of itself."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from tests.cli.items import connection, endpoint, portal, service
from userproxy.admin.routes import LISTS
from userproxy.cli.output.kinds import CONNECTIONS, ENDPOINTS, KINDS, NONE, PORTALS, SERVICES, Kind

ROUTES = {route.path: route for route in LISTS}
EXAMPLES: dict[str, Callable[[], dict[str, Any]]] = {
    "services": service,
    "endpoints": endpoint,
    "connections": connection,
    "portals": portal,
}

by_route = pytest.mark.parametrize("kind", [SERVICES, ENDPOINTS, CONNECTIONS, PORTALS], ids=lambda kind: kind.route)


class Noting(dict[str, Any]):
    """An item that notes which of its fields are looked at."""

    def __init__(self, item: dict[str, Any]) -> None:
        super().__init__(item)
        self.read: set[str] = set()

    def __getitem__(self, field: str) -> Any:
        self.read.add(field)
        return super().__getitem__(field)

    def get(self, field: str, default: Any = None) -> Any:
        self.read.add(field)
        return super().get(field, default)


def cells(kind: Kind, item: dict[str, Any]) -> dict[str, str]:
    return {column.heading: column.text(item) for column in kind.columns}


@by_route
def test_it_shows_fields_that_the_admin_api_has(kind: Kind) -> None:
    fields = {field.name for field in structs.fields(ROUTES[kind.route].item)}
    item = Noting(EXAMPLES[kind.route]())
    cells(kind, item)
    kind.name(item)
    assert item.read <= fields
    assert len(item.read) > 5


@by_route
def test_it_is_restricted_by_what_the_admin_api_takes(kind: Kind) -> None:
    assert kind.selectors <= {parameter.name for parameter in ROUTES[kind.route].parameters}


@by_route
def test_no_two_columns_have_the_same_heading(kind: Kind) -> None:
    headings = [column.heading for column in kind.columns]
    assert len(set(headings)) == len(headings)
    assert all(heading == heading.upper() and " " not in heading for heading in headings), "awk finds them"


@by_route
def test_what_is_not_known_or_empty_is_a_word_and_not_a_gap(kind: Kind) -> None:
    found = EXAMPLES[kind.route]()
    optional = {
        field.name for field in structs.fields(ROUTES[kind.route].item) if type(None) in _alternatives(field.type)
    }
    item = {name: None if name in optional else "" if value == "None" else value for name, value in found.items()}
    for heading, text in cells(kind, item).items():
        assert text.strip(), heading
        assert text != "None", heading


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return getattr(kind, "__args__", ())


def test_kinds_have_kubectl_s_short_names() -> None:
    assert {KINDS[name].route for name in ("svc", "service", "services")} == {"services"}
    assert KINDS["ep"] is ENDPOINTS
    assert len(KINDS) == sum(len(kind.names) for kind in (SERVICES, ENDPOINTS, CONNECTIONS, PORTALS))


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (SERVICES, service(port="http"), service(port="https")),
        (SERVICES, service("a", namespace="x"), service("a", namespace="y")),
        (ENDPOINTS, endpoint("10.0.0.1:80"), endpoint("10.0.0.1:81")),
        (CONNECTIONS, connection(1), connection(11)),
        (PORTALS, portal(protocol="TCP"), portal(protocol="UDP")),
    ],
)
def test_names_tell_items_apart(kind: Kind, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert kind.name(one) != kind.name(other)
    assert {kind.name(each).partition("/")[0] for each in (one, other)} == {kind.singular}


def test_counts_and_lists_stand_in_one_cell() -> None:
    shown = cells(SERVICES, service(portals=[], endpoints={"usable": 0, "all": 3}))
    assert (shown["ENDPOINTS"], shown["PORTALS"]) == ("0/3", NONE)
    assert cells(CONNECTIONS, connection(faults="latency 200ms"))["FAULTS"] == "latency 200ms"
    assert cells(CONNECTIONS, connection(faults=""))["FAULTS"] == NONE
    assert cells(PORTALS, portal(in_sync=False, local_port=None))["IN-SYNC"] == "false"
