"""Label and field selectors as predicates over objects."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.lab.apiserver.resources import Resource
from tests.lab.apiserver.status import ApiError

Predicate = Callable[[Mapping[str, Any]], bool]

_TERM = re.compile(
    r"(?P<absent>!)?\s*(?P<key>[A-Za-z0-9._/-]+)\s*(?:(?P<operator>==|!=|=)\s*(?P<value>[A-Za-z0-9._:-]*))?"
)

_FIELDS = {"Service": ("spec.clusterIP", "spec.type"), "Node": ("spec.unschedulable",), "Event": ("reason",)}


def selects(resource: Resource, labels: str, fields: str) -> Predicate:
    """Whether both selectors match an object; empty ones match everything. Raises ApiError 400."""
    terms = [*_labels(labels), *_fields(resource, fields)]
    return lambda item: all(term(item) for term in terms)


def _labels(text: str) -> list[Predicate]:
    return [_label(*_term(part, text)) for part in _parts(text)]


def _label(absent: bool, key: str, operator: str, value: str) -> Predicate:
    def labels(item: Mapping[str, Any]) -> Mapping[str, Any]:
        found = item["metadata"].get("labels")
        return found if isinstance(found, dict) else {}

    if absent:
        return lambda item: key not in labels(item)
    if not operator:
        return lambda item: key in labels(item)
    if operator == "!=":
        return lambda item: labels(item).get(key) != value
    return lambda item: key in labels(item) and labels(item)[key] == value


def _fields(resource: Resource, text: str) -> list[Predicate]:
    known = ("metadata.name", "metadata.namespace", *_FIELDS.get(resource.kind, ()))
    found: list[Predicate] = []
    for part in _parts(text):
        absent, key, operator, value = _term(part, text)
        if absent or not operator:
            raise ApiError(400, f"invalid field selector: {text!r}; can't understand {part!r}")
        if key not in known:
            only = ", ".join(f'"{name}"' for name in known)
            raise ApiError(400, f'"{key}" is not a known field selector: only {only}')
        found.append(_field(key.split("."), operator, value))
    return found


def _field(path: list[str], operator: str, value: str) -> Predicate:
    def reaches(item: object) -> bool:
        for step in path:
            item = item.get(step) if isinstance(item, dict) else None
        return ("" if item is None else str(item)) == value

    return (lambda item: not reaches(item)) if operator == "!=" else reaches


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _term(part: str, text: str) -> tuple[bool, str, str, str]:
    match = _TERM.fullmatch(part)
    if match is None or (match["absent"] and match["operator"]):
        raise ApiError(
            400, f"unable to parse requirement: {text!r}: found {part!r}, expected a key, '!key' or 'key=value'"
        )
    return bool(match["absent"]), match["key"], match["operator"] or "", match["value"] or ""
