"""What the screen of ``userproxy top`` shows, and what its keys do. Pure."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, NamedTuple

from userproxy.cli.output.tables import printable
from userproxy.cli.output.units import amount, latency, rate
from userproxy.cli.top.rates import Row

HELP: Final = """\
Keys, as in top(1):
  q                end
  SPACE, ENTER     look again now
  d, s             change the seconds between two looks
  <  >             sort by the column to the left, to the right
  C B E A N        sort by connections/s, bytes/s, errors/s, active, name
  R                turn the order round
  i                hide those that do nothing, show them again
  UP, DOWN, HOME   scroll
  h, ?             this help; any key leaves it"""

_LEAST_DELAY: Final = 0.1


class Reaction(Enum):
    """What a key asks of whoever shows the screen."""

    NOTHING = "nothing"
    LOOK = "look"
    QUIT = "quit"


class _Column(NamedTuple):
    heading: str
    text: Callable[[Row], str]
    order: Callable[[Row], tuple[float, ...]]
    """Greatest first."""


_NAME: Final = 0
_COLUMNS: Final = (
    _Column("", lambda row: row.name, lambda _: ()),
    _Column("ACTIVE", lambda row: str(row.active), lambda row: (row.active,)),
    _Column("CONN/S", lambda row: rate(row.connections), lambda row: (row.connections, _bytes(row))),
    _Column("UP/S", lambda row: amount(row.bytes_up), lambda row: (row.bytes_up,)),
    _Column("DOWN/S", lambda row: amount(row.bytes_down), lambda row: (row.bytes_down,)),
    _Column("ERR/S", lambda row: rate(row.errors), lambda row: (row.errors,)),
    _Column("DIAL-P50", lambda row: latency(row.dial_p50), lambda row: (row.dial_p50 or 0.0,)),
    _Column("DIAL-P99", lambda row: latency(row.dial_p99), lambda row: (row.dial_p99 or 0.0,)),
)
_BY_KEY: Final = {"A": 1, "C": 2, "E": 5, "N": _NAME}
_BY_BYTES: Final = len(_COLUMNS)
"""The order by both directions together, which is of no column."""


def _bytes(row: Row) -> float:
    return row.bytes_up + row.bytes_down


class Screen:
    """Rows, in an order that keys change. `title` is what a row is; `delay` the seconds between two looks."""

    def __init__(self, title: str, delay: float = 2.0) -> None:
        self.delay = delay
        self._title = title
        self._rows: Sequence[Row] = ()
        self._order = _BY_KEY["C"]
        self._reversed = False
        self._hides_idle = False
        self._scrolled = 0
        self._helps = False
        self._typed: str | None = None

    def show(self, rows: Sequence[Row]) -> None:
        """Have these rows from now on."""
        self._rows = rows

    def press(self, key: str) -> Reaction:
        """A key was pressed: a character, or ``up``, ``down``, ``home``."""
        if self._typed is not None:
            return self._type(key)
        if self._helps:
            self._helps = False
            return Reaction.NOTHING
        match key:
            case "q":
                return Reaction.QUIT
            case " " | "\n" | "\r":
                return Reaction.LOOK
            case "d" | "s":
                self._typed = ""
            case "h" | "?":
                self._helps = True
            case "R":
                self._reversed = not self._reversed
            case "i":
                self._hides_idle = not self._hides_idle
            case "up" | "down" | "home":
                step = {"up": -1, "down": 1, "home": -self._scrolled}[key]
                self._scrolled = min(max(0, self._scrolled + step), max(0, len(self._shown()) - 1))
            case _:
                self._sort(key)
        return Reaction.NOTHING

    def lines(self, head: str, width: int, height: int) -> list[str]:
        """What fits on a screen of this size: `head`, the heading of the columns, and rows."""
        prompt = f"Seconds between two looks (now {self.delay:g}): {self._typed}" if self._typed is not None else ""
        text = HELP.splitlines() if self._helps else self.table()
        body = text if self._helps else [text[0], *text[1 + self._scrolled :]]
        return [line[:width] for line in [head, prompt, *body][:height]]

    def table(self) -> list[str]:
        """All rows under the heading, in order: names to the left, figures to the right."""
        rows = [[printable(column.text(row)) for column in _COLUMNS] for row in self._shown()]
        cells = [[self._title, *(column.heading for column in _COLUMNS[1:])], *rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return ["   ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells]

    def _shown(self) -> list[Row]:
        rows = [row for row in self._rows if not self._hides_idle or _is_busy(row)]
        rows.sort(key=lambda row: row.name, reverse=self._reversed and self._order == _NAME)
        if self._order != _NAME:
            order = _COLUMNS[self._order].order if self._order != _BY_BYTES else lambda row: (_bytes(row),)
            rows.sort(key=order, reverse=not self._reversed)
        return rows

    def _sort(self, key: str) -> None:
        if key in "<>":
            step = 1 if key == ">" else -1
            self._order = min(max(0, min(self._order, _BY_BYTES - 1) + step), _BY_BYTES - 1)
        elif key == "B":
            self._order = _BY_BYTES
        else:
            self._order = _BY_KEY.get(key, self._order)

    def _type(self, key: str) -> Reaction:
        assert self._typed is not None  # noqa: S101 - for mypy
        if key in "\n\r":
            self.delay = _seconds(self._typed) or self.delay
            self._typed = None
            return Reaction.LOOK
        if key == "\x1b":
            self._typed = None
        elif key in "\x7f\b":
            self._typed = self._typed[:-1]
        elif len(key) == 1 and key in "0123456789." and len(self._typed) < 8:
            self._typed += key
        return Reaction.NOTHING


def _seconds(text: str) -> float | None:
    try:
        return max(_LEAST_DELAY, float(text))
    except ValueError:
        return None


def _is_busy(row: Row) -> bool:
    return bool(row.active or row.connections or row.errors or _bytes(row))
