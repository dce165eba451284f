"""What the admin API answers, as its readers meet it: JSON that says the same in every release of /v1."""

import inspect
from typing import Any, get_args

import msgspec
import pytest

from userproxy.admin import items
from userproxy.admin.items import Change, Control, CutOff, EndpointItem, Failure, Page, PortalItem, ProcessStatus

KINDS = [
    kind for _, kind in inspect.getmembers(items, inspect.isclass)
    if issubclass(kind, msgspec.Struct) and kind.__module__ == items.__name__
]  # fmt: skip
PORTAL = PortalItem("10.96.0.10:80", "ClusterIP", "TCP", "default/web", "http", None, "iptables", True)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_items_are_values_that_the_garbage_collector_need_not_follow(kind: type[msgspec.Struct]) -> None:
    """There may be a hundred thousand of them in an answer."""
    assert kind.__struct_config__.frozen
    assert not kind.__struct_config__.gc


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_the_documentation_of_a_kind_names_is_a_field_of_it(kind: type[msgspec.Struct]) -> None:
    """Its docstring is what OpenAPI says: names of fields stand there in backticks, alone."""
    assert kind.__doc__
    quoted = kind.__doc__.replace("``", "\0").split("`")[1::2]
    fields = {field.name for field in msgspec.structs.fields(kind)}
    others = {
        "after",
        "served",
        "retried",
        "next",
        "limits",
    }  # a parameter, outcomes, and fields that are explained beside
    assert {name for name in quoted if name.isidentifier()} <= fields | others | _inner(kind)


def _inner(kind: type[msgspec.Struct]) -> set[str]:
    """The fields of values within it."""
    found: set[str] = set()
    for field in msgspec.structs.fields(kind):
        for each in (field.type, *get_args(field.type)):
            if isinstance(each, type) and issubclass(each, msgspec.Struct):
                found |= {inner.name for inner in msgspec.structs.fields(each)}
    return found


def test_a_watch_has_lines_that_are_told_apart_by_their_type() -> None:
    lines: list[Any] = [Change("ADDED", PORTAL), Change[PortalItem]("SYNCED"), CutOff("too slow", 7)]
    said = [msgspec.json.decode(msgspec.json.encode(line)) for line in lines]
    assert [line["type"] for line in said] == ["ADDED", "SYNCED", "ERROR"]
    assert said[0]["object"]["local_port"] is None, "what is not known is null, and there"
    assert said[1]["object"] is None
    assert said[2] == {"type": "ERROR", "message": "too slow", "lost": 7}


def test_a_page_says_where_the_next_one_begins() -> None:
    page = Page((PORTAL,), "default/web")
    text = msgspec.json.encode(page)
    assert msgspec.json.decode(text, type=Page[PortalItem]) == page
    assert msgspec.json.decode(msgspec.json.encode(Page[PortalItem]((), None))) == {"items": [], "next": None}


def test_fields_of_later_releases_have_values_for_those_who_do_not_send_them() -> None:
    """A command may ask a proxy of the release before."""
    process = {"pid": 1, "loop_lag_seconds": 0.0, "descriptors": 1, "descriptor_limit": 2}
    counts = {"connections": 0, "flows": 0, "pipes": 0}
    found = msgspec.convert(process | counts, ProcessStatus)
    assert (found.role, found.restarts) == ("", 0)
    optional = {field.name for field in msgspec.structs.fields(EndpointItem) if not field.required}
    assert optional == {"weight", "ejected"}


def test_controls_are_the_ones_that_commands_ask_for() -> None:
    assert get_args(Control) == ("drains", "close", "faults", "capture")
    assert msgspec.json.encode(Failure("no")) == b'{"error":"no"}'
