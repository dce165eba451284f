"""Cells without shared memory."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from userproxy.model import Endpoint


class PlainCell:
    """What is known of an endpoint."""

    def __init__(self) -> None:
        self.total = 0
        self.bytes_down = 0
        self.is_out = False
        self.rows = {False: (0, 0.0, 0), True: (0, 0.0, 0)}

    def row(self, *, by_reset: bool) -> tuple[int, float, int]:
        return self.rows[by_reset]

    def note_row(self, count: int, last: float, well: int, *, by_reset: bool) -> None:
        self.rows[by_reset] = count, last, well

    def clear(self) -> None:
        self.rows = {False: (0, 0.0, 0), True: (0, 0.0, 0)}
        self.is_out = False


class PlainCells(dict[Endpoint, PlainCell]):
    """Those of a listener."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        super().__init__((each, PlainCell()) for each in endpoints)

    def out(self) -> int:
        return sum(each.is_out for each in self.values())

    @property
    def lock(self) -> AbstractContextManager[bool]:
        return nullcontext(enter_result=True)
