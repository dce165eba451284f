"""The OpenAPI document of the admin API, made of the routes themselves."""

import inspect
from functools import cache
from typing import Any, Final

import msgspec

from userproxy import __version__
from userproxy.admin.capturing import PCAPNG, Line
from userproxy.admin.items import CutOff, Failure
from userproxy.admin.parameters import WATCH, Parameter
from userproxy.admin.routes import (
    LISTS,
    OBJECTS,
    ROUTES,
    CaptureRoute,
    ListRoute,
    ObjectRoute,
    Route,
    answer_types,
    parameters_of,
)
from userproxy.admin.steering.routes import WRITES, WriteRoute
from userproxy.admin.streaming import JSON, LINES

_ABOUT: Final = """What a running userproxy does: Services, endpoints, connections, portals, decisions and problems.
It answers on a Unix socket, to root and to the user it runs as. GET changes nothing.
Seconds are floating point numbers, times of day RFC 3339 in UTC, bytes are payload."""


@cache
def document() -> bytes:
    """The document as JSON."""
    types: list[Any] = [Failure, CutOff, Line, *(route.answer for route in OBJECTS if route.answer is not None)]
    for route in LISTS:
        types += answer_types(route)
    for write in WRITES:
        types += [write.answer, *([write.body] if write.body is not None else [])]
    types = list({repr(each): each for each in types}.values())
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(map(repr, types), schemas, strict=True))
    described = {name: _described(component) for name, component in components.items()}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "userproxy admin API", "version": __version__, "description": _ABOUT},
            "paths": {f"/v1/{route.path}": _operations(route, by_type) for route in ROUTES},
            "components": {"schemas": described},
        }
    )


def _operations(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    writes = {each.method.lower(): _write(each, schemas) for each in WRITES if each.path == route.path}
    return {"get": _operation(route, schemas), **writes}


def _write(route: WriteRoute, schemas: dict[str, Any]) -> dict[str, Any]:
    failure = {"content": {JSON: {"schema": schemas[repr(Failure)]}}}
    operation = {
        "operationId": route.operation,
        "summary": route.text,
        "parameters": [_parameter(each) for each in route.parameters],
        "responses": {
            "200": {"description": "It is done.", "content": {JSON: {"schema": schemas[repr(route.answer)]}}},
            "400": {"description": "Something is unknown, or has a value that it cannot have.", **failure},
            "503": {"description": "Too many ask at a time, or another userproxy has just taken over.", **failure},
            **{str(status): {"description": text, **failure} for status, text in route.refusals.items()},
        },
    }
    if route.body is None:
        return operation
    return {**operation, "requestBody": {"required": True, "content": {JSON: {"schema": schemas[repr(route.body)]}}}}


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    is_capture = isinstance(route, CaptureRoute)
    failure = {"content": {JSON: {"schema": schemas[repr(Failure)]}}}
    operation = {
        "operationId": route.path.partition(".")[0],
        "summary": route.text,
        "parameters": [_parameter(each) for each in parameters_of(route) if each is not WATCH],
        "responses": {
            "200": {"description": "The answer.", "content": _content(route, schemas)},
            "400": {"description": "A parameter is unknown, or has a value that it cannot have.", **failure},
            "503": {"description": "Too many ask at a time, or another userproxy has just taken over.", **failure},
            **({"403": {"description": "Captures are not allowed here.", **failure}} if is_capture else {}),
            **({"404": {"description": "There is no such thing.", **failure}} if _may_be_missing(route) else {}),
        },
    }
    return {**operation, "x-watch": _watch(route, schemas)} if isinstance(route, ListRoute) else operation


def _may_be_missing(route: Route) -> bool:
    return isinstance(route, ObjectRoute) and route.may_be_missing


def _content(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    if isinstance(route, CaptureRoute):
        lines = {"x-line-schema": {"anyOf": [schemas[repr(Line)], schemas[repr(CutOff)]]}}
        return {LINES: lines, PCAPNG: {"schema": {"type": "string", "format": "binary"}}}
    if isinstance(route, ListRoute):
        return {JSON: {"schema": schemas[repr(answer_types(route)[0])]}}
    return {JSON: {"schema": {"type": "object"} if route.answer is None else schemas[repr(route.answer)]}}


def _watch(route: ListRoute, schemas: dict[str, Any]) -> dict[str, Any]:
    """What turns a list into a watch. OpenAPI 3.1 has no words of its own for an answer that does not end."""
    line = {"anyOf": [schemas[repr(answer_types(route)[1])], schemas[repr(CutOff)]]}
    return {"parameter": _parameter(WATCH), "content": {LINES: {"x-line-schema": line}}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = dict(parameter.schema)
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "description": parameter.text,
        "schema": {"type": "array", "items": schema} if parameter.repeatable else schema,
    }


def _described(component: dict[str, Any]) -> dict[str, Any]:
    return {**component, "description": inspect.cleandoc(component.get("description", ""))}
