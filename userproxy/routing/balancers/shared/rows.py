"""Failures in a row of the endpoints of one listener, which several processes count together. Pure."""

from contextlib import AbstractContextManager
from typing import Protocol

from userproxy.model import Ejection, Endpoint
from userproxy.routing.balancers.ejections import Ejected


class Cell(Protocol):
    """What all processes know of an endpoint."""

    is_out: bool

    @property
    def total(self) -> int:
        """How many connections or flows it has had."""

    @property
    def bytes_down(self) -> int:
        """How many bytes have come of it in those that have ended."""

    def row(self, *, by_reset: bool) -> tuple[int, float, int]:
        """Failures of a kind in a row: how many, when the last one was, and what had been done well by then."""

    def note_row(self, count: int, last: float, well: int, *, by_reset: bool) -> None:
        """Be as :meth:`row` is to say."""

    def clear(self) -> None:
        """There are no failures, and it is not ejected."""


class Cells(Protocol):
    """Those of the endpoints of one listener."""

    def get(self, endpoint: Endpoint) -> Cell | None:
        """That of an endpoint; None where there is no room for it."""

    def out(self) -> int:
        """How many of the endpoints are ejected."""

    @property
    def lock(self) -> AbstractContextManager[bool]:
        """What keeps other processes from counting failures meanwhile."""


class SharedRows:
    """Counts failures by the rules of :class:`~userproxy.routing.balancers.ejections.Ejections`, for all processes.

    The one whose failure ejects an endpoint knows it at once; others, and those that come after it, are to be told.
    """

    __slots__ = ("_accepting_counts", "count", "rule")

    def __init__(self, *, accepting_counts: bool) -> None:
        self._accepting_counts = accepting_counts
        self.rule = Ejection(1, 0.0)
        self.count = 0
        """How many endpoints there are."""

    def failed(self, cells: Cells, endpoint: Endpoint, now: float, reason: str, *, by_reset: bool) -> Ejected | None:
        """Count a failure of an endpoint. Returns what follows if it is ejected by this one."""
        cell = cells.get(endpoint)
        if cell is None:
            return None
        with cells.lock:
            if cell.is_out:
                return None
            times = self._one_more(cell, now, by_reset=by_reset)
            if times < self.rule.failures or cells.out() + 1 > self.count // 2:
                return None
            cell.clear()
            cell.is_out = True
        failures = f"{times} failures in a row" if times > 1 else "a failure"
        return Ejected(endpoint, now, now + self.rule.seconds, f"{failures}: {reason}", by_reset)

    def is_spent(self, cells: Cells, endpoint: Endpoint) -> bool:
        """Whether others go before an endpoint that is not known to be ejected here.

        It would be, were it not for the others that are; or it is, and we have not heard of it; or nobody counts.
        """
        cell = cells.get(endpoint)
        if cell is None or cell.is_out:
            return True
        return any(cell.row(by_reset=each)[0] >= self.rule.failures for each in (False, True))

    def _one_more(self, cell: Cell, now: float, *, by_reset: bool) -> int:
        """How many failures in a row there are with this one."""
        times, last, well_before = cell.row(by_reset=by_reset)
        well = cell.bytes_down if by_reset or not self._accepting_counts else cell.total
        if well != well_before or now - last > self.rule.seconds:
            times = 0
        cell.note_row(times + 1, now, well, by_reset=by_reset)
        return times + 1
