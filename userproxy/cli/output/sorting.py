"""``--sort-by``: items in the order of one of their fields."""

from collections.abc import Sequence
from typing import Any

from userproxy.cli.output.tables import Item
from userproxy.errors import UsageError


def sorted_by(items: Sequence[Item], field: str) -> list[Item]:
    """The items in ascending order of a field, descending for ``-FIELD``; those that have none come last.

    kubectl's ways of writing it are understood: ``.age_seconds``, ``{.age_seconds}``. Raises UsageError where it is
    no field of theirs.
    """
    descending = field.startswith("-")
    name = field.removeprefix("-").strip("{}").removeprefix(".")
    for item in items[:1]:
        if name not in item:
            raise UsageError(f"--sort-by: {field!r} is not one of {', '.join(item)}")
    present = [item for item in items if item[name] is not None]
    present.sort(key=lambda item: _key(item[name]), reverse=descending)
    return present + [item for item in items if item[name] is None]


def _key(value: Any) -> tuple[float, str]:
    """Numbers by size, counts of several things by the first of them, lists by their lengths, all else as text."""
    match value:
        case bool() | int() | float():
            return value, ""
        case dict():
            return _key(next(iter(value.values()), 0))
        case list():
            return len(value), ""
    return 0, str(value)
