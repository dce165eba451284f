"""The OpenAPI document; test_conformance.py tries that the API is as it says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from userproxy.admin.openapi import document
from userproxy.admin.parameters import WATCH
from userproxy.admin.routes import LISTS, ROUTES, Route, parameters_of
from userproxy.admin.steering.routes import WRITES, WriteRoute

DOCUMENT: dict[str, Any] = json.loads(document())


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def test_every_reference_leads_somewhere_and_every_schema_is_described() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert {each.rpartition("/")[2] for each in references(DOCUMENT)} <= schemas.keys()
    for name, schema in schemas.items():
        assert schema["description"], name
        assert "\n    " not in schema["description"], name


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_a_route_has_its_parameters_and_answers(route: Route) -> None:
    operation = DOCUMENT["paths"][f"/v1/{route.path}"]["get"]
    given = {each["name"]: each for each in operation["parameters"]}
    assert given.keys() == {each.name for each in parameters_of(route)} - {WATCH.name}
    for parameter in parameters_of(route):
        if parameter is not WATCH:
            shown = given[parameter.name]
            assert (shown["in"], shown["required"], shown["description"]) == (
                "query",
                parameter.required,
                parameter.text,
            )
            assert (shown["schema"].get("items") == parameter.schema) == parameter.repeatable
    expected = {"200", "400", "503"}
    expected |= {"403"} if route.path == "capture" else {"404"} if route.path == "explain" else set()
    assert operation["responses"].keys() == expected


def test_lists_may_be_watched_and_nothing_else() -> None:
    watched = {path for path, methods in DOCUMENT["paths"].items() if "x-watch" in methods["get"]}
    assert watched == {f"/v1/{route.path}" for route in LISTS}


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.operation)
def test_a_change_has_its_body_and_its_refusals(write: WriteRoute) -> None:
    operation = DOCUMENT["paths"][f"/v1/{write.path}"][write.method.lower()]
    assert operation["operationId"] == write.operation
    assert operation.get("requestBody", {}).get("required", False) == (write.body is not None)
    assert {str(each) for each in write.refusals} | {"200", "400", "503"} == operation["responses"].keys()


def test_no_two_operations_have_one_name() -> None:
    names = [each["operationId"] for methods in DOCUMENT["paths"].values() for each in methods.values()]
    assert len(names) == len(set(names))
