"""Text becomes values: YAML without its surprises, and JSON."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.errors import ObjectError
from userproxy.yaml_reader import MalformedTextError, dump, parse, parse_one


def read(text: str | bytes, file: str = "a.yaml") -> list[object]:
    return list(parse(text.encode() if isinstance(text, str) else text, file))


def complaint(text: str | bytes, file: str = "a.yaml") -> str:
    with pytest.raises(ObjectError) as caught:
        read(text, file)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80", 80),
        ("-1", -1),
        ("+5", 5),
        ("0", 0),
        ("080", "080"),
        ("0644", "0644"),
        ("0o644", "0o644"),
        ("0x50", "0x50"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        ("10.96.0.1", "10.96.0.1"),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("685230.15e+03", 685230150.0),
        ("1e", "1e"),
        (".inf", ".inf"),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("yes", True),
        ("On", True),
        ("off", False),
        ("NO", False),
        ("true", True),
        ("y", "y"),
        ("'no'", "no"),
        ("'80'", "80"),
        ('"80"', "80"),
        ("!!str 80", "80"),
        ("!!int '80'", 80),
        ("!local 80", "80"),
        ("null", None),
        ("~", None),
        ("None", "None"),
        ("=", "="),
        ("!!binary aGk=", "aGk="),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">-\n  a\n  b\n", "a b"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    (document,) = read(f"key: {text}")
    assert document == {"key": value}
    assert isinstance(document, dict)
    assert type(document["key"]) is type(value)


@pytest.mark.parametrize("text", ["!!int ٨٠", "!!int '80 '", "!!int 1_000", "!!float 1.٥", "!!float nan"])
def test_a_tag_makes_no_number_of_what_is_none(text: str) -> None:
    assert "is not of the type" in complaint(f"key: {text}")


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("", []),
        ("# nothing but a comment\n", []),
        ("---\n", [None]),
        ("---\n---\na: 1\n", [None, {"a": 1}]),
        ("a: 1\n---\nb: 2\n...\n", [{"a": 1}, {"b": 2}]),
        ("%YAML 1.1\n---\na: 1\n", [{"a": 1}]),
        ("\ufeffa: 1\n", [{"a": 1}]),
        ("a: 1\r\nb: 2\r\n", [{"a": 1, "b": 2}]),
        ("- 1\n- [2, {a: 3}]\n", [[1, [2, {"a": 3}]]]),
        ("a:\n", [{"a": None}]),
        ('{"a": [1, null, "x"]}', [{"a": [1, None, "x"]}]),
        ("on: 1\n5: 2\nnull: 3\n", [{True: 1, 5: 2, None: 3}]),
    ],
)
def test_documents(text: str, documents: list[object]) -> None:
    assert read(text) == documents


def test_anchors_aliases_and_merges() -> None:
    text = """
base: &base {a: 1, b: 2}
other: &other {b: 3, c: 4}
one: {<<: *base, b: own}
many: {<<: [*base, *other]}
same: *base
"""
    (document,) = read(text)
    assert document == {
        "base": {"a": 1, "b": 2},
        "other": {"b": 3, "c": 4},
        "one": {"a": 1, "b": "own"},
        "many": {"a": 1, "b": 2, "c": 4},
        "same": {"a": 1, "b": 2},
    }


def test_aliases_of_aliases_cost_no_memory() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 90))]
    (document,) = read("\n".join(lines))
    assert isinstance(document, dict)
    assert len(document) == 90


def test_merges_of_merges_cost_no_memory() -> None:
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 90))]
    (document,) = read("\n".join(lines))
    assert document == {f"a{n}": {"x": 1} for n in range(90)}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\na: 2\n", "a.yaml: line 2, column 1: the key a is given twice"),
        ("a: {b: 1, c: 2, b: 3}\n", "a.yaml: line 1, column 17: the key b is given twice"),
        ("ok: 1\n---\na: 1\n'a': 2\n", "a.yaml: line 4, column 1: the key a is given twice"),
        ("? [1]\n: 2\n", "a.yaml: line 1, column 3: a key is a list or a mapping"),
        ("a: &x [*x]\n", "a.yaml: line 1, column 4: an alias stands inside its own anchor"),
        ("<<: 5\n", "a.yaml: line 1, column 5: only mappings can be merged with <<"),
        ("<<: [{a: 1}, x]\n", "a.yaml: line 1, column 5: only mappings can be merged with <<"),
        ("a: !!int x\n", "a.yaml: line 1, column 4: the value is not of the type int"),
        ("a: !!bool 5\n", "a.yaml: line 1, column 4: the value is not of the type bool"),
        (f"a: {'9' * 5000}\n", "a.yaml: line 1, column 4: the value is not of the type int"),
        ("a: *nowhere\n", "a.yaml: line 1, column 4: found undefined alias"),
        ("a: [1, 2\nb: 3\n", "a.yaml: line 2, column 2: "),
        ("a: b: c\n", "a.yaml: line 1, column 5: mapping values are not allowed in this context"),
        ("a: 'open\n", "a.yaml: line 2, column 1: "),
        ("a:\n\t- 1\n", "a.yaml: line 2, column 1: "),
        ("a: 1\nb: \x01\n", "a.yaml: line 2: control characters are not allowed"),
        ("[" * 200_000, "a.yaml: line 1, column 100: nested more than 100 levels deep"),
        ("\n" + "{a: " * 101, "a.yaml: line 2, column 397: nested more than 100 levels deep"),
        (b"a: 1\nb: \xff\n", "a.yaml: line 2: the text is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "a.yaml: line 1: the text is not UTF-8"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_malformed_text_is_one_sentence_with_its_place(text: str | bytes, sentence: str) -> None:
    found = complaint(text)
    assert sentence in found
    assert "\n" not in found


def test_the_only_document() -> None:
    assert parse_one(b"a: 1\n", "a.yaml") == {"a": 1}
    assert parse_one(b'{"a": 1}', "a.json") == {"a": 1}
    assert parse_one(b"", "a.yaml") is None
    assert parse_one(b"---\n", "a.yaml") is None


@pytest.mark.parametrize("text", ["a: 1\n---\nb: 1", "a: 1\n---\n", "---\n---\n"])
def test_a_second_document_is_a_mistake_where_one_is_read(text: str) -> None:
    with pytest.raises(MalformedTextError, match="another document") as caught:
        parse_one(text.encode(), "a.yaml")
    assert caught.value.line == 2
    assert caught.value.place == f"line 2, column {caught.value.column}"


def test_a_key_given_twice_may_be_a_warning_and_the_last_counts() -> None:
    told: list[str] = []
    text = "a: {x: 1, x: 2, x: 3}\nb: [{c: {y: 1, 'y': 2}}]\nshared: &s {z: 1, z: 2}\nagain: *s\na: {w: 4}\n"
    assert parse_one(text.encode(), "a.yaml", told.append) == {
        "a": {"w": 4},
        "b": [{"c": {"y": 2}}],
        "shared": {"z": 2},
        "again": {"z": 2},
    }
    assert told == ["a", "a.x", "a.x", "b.c.y", "shared.z"]


def test_deep_but_not_too_deep() -> None:
    (document,) = read("a: " + "[" * 90 + "]" * 90)
    assert isinstance(document, dict)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, "b": [true, null, "x", 1.5]}', {"a": 1, "b": [True, None, "x", 1.5]}),
        ("\ufeff{}", {}),
        ("null", None),
        ('{"time": "2026-01-31", "port": "080"}', {"time": "2026-01-31", "port": "080"}),
    ],
)
def test_json(text: str, value: object) -> None:
    assert read(text, "a.json") == [value]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a.json: line 1, column 1: Expecting value"),
        ('{"a": 1,\n "b": }', "a.json: line 2, column 7: Expecting value"),
        ("{} {}", "a.json: line 1, column 4: Extra data"),
        ('{"x": {"a": 1, "a": 2}}', "a.json: the key a is given twice"),
        ("[" * 200_000, "a.json: "),
        (f"[{'9' * 5000}]", "a.json: "),
        (b'{"a": "\xff"}', "a.json: line 1: the text is not UTF-8"),
        ("a: 1", "a.json: line 1, column 1: Expecting value"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_malformed_json(text: str | bytes, sentence: str) -> None:
    assert complaint(text, "a.json").startswith(sentence)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["C"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcyno01.:-"), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(plain, max_size=3))
def test_json_is_yaml(documents: list[object]) -> None:
    assert read("".join(f"--- {json.dumps(each, ensure_ascii=False)}\n" for each in documents)) == documents


@given(st.binary() | st.text("ab:-[]{}&*!<>|#'\"\n \t,?%@`012.x~=_", max_size=40).map(str.encode))
def test_no_text_raises_anything_but_an_object_error(data: bytes) -> None:
    for file in ("a.yaml", "a.json"):
        with suppress(ObjectError):
            read(data, file)


@pytest.mark.parametrize("text", ["0E0", "1e5", ".5", "-0", "0x50", "1:30", "yes", "null", "2024-01-01", "\u0085", ""])
def test_text_that_looks_like_something_else_is_written_as_text(text: str) -> None:
    assert parse_one(dump({text: [text]}), "") == {text: [text]}


@given(
    st.dictionaries(
        st.text("0123456789eE.+-xobynt:_\u0085 ", max_size=6),
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.integers(), max_size=2),
        max_size=4,
    )
)
def test_what_is_written_is_read_as_it_was(value: dict[str, object]) -> None:
    assert parse_one(dump(value), "") == value
