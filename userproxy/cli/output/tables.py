"""Tables as kubectl prints them: aligned by spaces, never folded, without lines or colours, on a terminal or not."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

Item: TypeAlias = Mapping[str, Any]
"""One element of a list, as the admin API has it."""

_BETWEEN: Final = "   "


class Column(NamedTuple):
    """A heading, and what stands under it for an item. A `wide` one is only for ``-o wide``."""

    heading: str
    text: Callable[[Item], str]
    wide: bool = False


class Table:
    """Lines for items, the heading first. Later items are aligned with the earlier ones, as far as they fit."""

    def __init__(self, columns: Sequence[Column], *, wide: bool = False) -> None:
        self._columns = [column for column in columns if wide or not column.wide]
        self._widths: list[int] = []

    def lines(self, items: Iterable[Item]) -> list[str]:
        """The lines for these items, which have the heading before them at the first call."""
        rows = [[printable(column.text(item)) for column in self._columns] for item in items]
        if not self._widths:
            rows.insert(0, [column.heading for column in self._columns])
            self._widths = [0] * len(self._columns)
        for row in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        return [self._line(row) for row in rows]

    def _line(self, row: Sequence[str]) -> str:
        return _BETWEEN.join(map(str.ljust, row, self._widths)).rstrip()


def printable(text: str) -> str:
    """The text without what would move the cursor or break the line: who wrote it may be a stranger."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def indented(lines: Iterable[str], depth: int = 2) -> list[str]:
    """The lines, moved to the right."""
    return [" " * depth + line for line in lines]
