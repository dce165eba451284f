"""``--sort-by``, for fields of every kind that items have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.cli.output.sorting import sorted_by
from userproxy.cli.output.tables import Item
from userproxy.errors import UsageError

ITEMS: list[Item] = [
    {"name": "b", "n": 10, "count": {"usable": 1, "all": 9}, "list": ["x"], "seconds": None, "on": True},
    {"name": "c", "n": 9, "count": {"usable": 3, "all": 3}, "list": [], "seconds": 0.5, "on": False},
    {"name": "a", "n": 10, "count": {"usable": 2, "all": 2}, "list": ["x", "y"], "seconds": 0.25, "on": True},
]


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("name", "abc"),
        ("-name", "cba"),
        ("n", "cba"),
        ("-n", "bac"),
        (".n", "cba"),
        ("{.n}", "cba"),
        ("-{.n}", "bac"),
        ("count", "bac"),
        ("list", "cba"),
        ("seconds", "acb"),
        ("-seconds", "cab"),
        ("on", "cba"),
    ],
)
def test_a_list_is_sorted_by_a_field(field: str, names: str) -> None:
    assert "".join(item["name"] for item in sorted_by(ITEMS, field)) == names


def test_a_field_that_there_is_not_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="--sort-by: 'age' is not one of name, n, count, list, seconds, on"):
        sorted_by(ITEMS, "age")
    assert sorted_by([], "age") == []


values = st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.booleans() | st.lists(st.none())


@given(st.lists(values), st.booleans())
def test_whatever_a_field_holds_nothing_is_lost_and_what_has_none_comes_last(
    found: list[object], descending: bool
) -> None:
    items: list[Item] = [{"at": at, "field": value} for at, value in enumerate(found)]
    after = sorted_by(items, "-field" if descending else "field")
    assert sorted(item["at"] for item in after) == list(range(len(items)))
    without = [item["at"] for item in items if item["field"] is None]
    assert [item["at"] for item in after][len(items) - len(without) :] == without, "in the order in which they came"


@given(st.lists(st.none() | st.integers() | st.floats(allow_nan=False)))
def test_numbers_go_by_size_and_equal_ones_stay_as_they_were(found: list[float | None]) -> None:
    items: list[Item] = [{"at": at, "field": value} for at, value in enumerate(found)]
    present = [item for item in items if item["field"] is not None]
    up = [item for item in sorted_by(items, "field") if item["field"] is not None]
    down = [item for item in sorted_by(items, "-field") if item["field"] is not None]
    assert up == sorted(present, key=lambda item: (item["field"], item["at"]))
    assert down == sorted(present, key=lambda item: (-item["field"], item["at"]))
