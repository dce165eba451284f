"""The forms of ``-o``: whatever a proxy says comes out as one JSON line, one document of YAML, or one name."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.cli.items import connection
from userproxy.cli.output.forms import Form, Stream, as_json_line, as_list, as_yaml
from userproxy.cli.output.tables import Column, Item

COLUMNS = [Column("N", lambda item: str(item["n"])), Column("MORE", lambda item: str(item["more"]), wide=True)]

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | texts
fields = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
values = st.recursive(scalars, lambda each: st.lists(each, max_size=3) | st.dictionaries(fields, each, max_size=3))
items: st.SearchStrategy[list[Item]] = st.lists(st.dictionaries(fields, values, min_size=1, max_size=4), max_size=4)


def name(item: Item) -> str:
    return f"thing/{item['n']}"


def printed(lines: list[str]) -> str:
    """As they stand on a terminal or in a pipe."""
    return "".join(f"{line}\n" for line in lines)


@settings(max_examples=40, deadline=None)
@given(items)
def test_json_of_a_list_and_of_its_changes_is_what_was_said(found: list[Item]) -> None:
    assert json.loads(printed(as_list(Form.JSON, found, COLUMNS, name))) == {"items": found}
    streamed = printed(Stream(Form.JSON, COLUMNS, name).lines(found))
    assert [json.loads(line) for line in streamed.split("\n")[:-1]] == found, "one line each"


@settings(max_examples=40, deadline=None)
@given(items)
@example([{"reason": "two\x85lines", "more": "\u2028"}])
def test_yaml_of_a_list_and_of_its_changes_is_what_was_said(found: list[Item]) -> None:
    assert yaml.safe_load(printed(as_list(Form.YAML, found, COLUMNS, name))) == {"items": found}
    streamed = printed(Stream(Form.YAML, COLUMNS, name).lines(found))
    assert list(yaml.safe_load_all(streamed)) == found


def test_fields_stand_in_the_order_in_which_they_were_said() -> None:
    found = {"zone": "z", "address": "é", "more": None}
    assert as_yaml(found) == "zone: z\naddress: é\nmore: null"
    assert as_json_line(found) == '{"zone":"z","address":"é","more":null}'


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        (Form.JSON, ['{"n":1,"more":2}', '{"n":2,"more":3}']),
        (Form.YAML, ["---\nn: 1\nmore: 2", "---\nn: 2\nmore: 3"]),
        (Form.NAME, ["thing/1", "thing/2"]),
        (Form.TABLE, ["N", "1", "2"]),
        (Form.WIDE, ["N   MORE", "1   2", "2   3"]),
    ],
)
def test_what_goes_on_has_a_form_for_each_item(form: Form, lines: list[str]) -> None:
    stream = Stream(form, COLUMNS, name)
    assert [*stream.lines([{"n": 1, "more": 2}]), *stream.lines([{"n": 2, "more": 3}])] == lines


@pytest.mark.parametrize("form", [Form.NAME, Form.TABLE])
def test_a_name_cannot_move_the_cursor_or_take_another_line(form: Form) -> None:
    hostile: dict[str, Any] = {"n": "\x1b[2Jweb\nx\u202e", "more": ""}
    for lines in (as_list(form, [hostile], COLUMNS, name), Stream(form, COLUMNS, name).lines([hostile])):
        assert lines[-1].endswith("?[2Jweb?x?")


@pytest.mark.parametrize("form", Form)
def test_a_list_of_nothing_is_still_one(form: Form) -> None:
    empty = {"json": '{\n  "items": []\n}', "yaml": "items: []", "name": "", "table": "N", "wide": "N   MORE"}
    assert "\n".join(as_list(form, [], COLUMNS, name)) == empty[form]


def test_every_field_of_a_connection_is_there() -> None:
    shown = json.loads(printed(as_list(Form.JSON, [connection(7)], COLUMNS, name)))
    assert shown == {"items": [connection(7)]}
