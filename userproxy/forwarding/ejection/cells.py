"""What each endpoint of a listener that ejects has done for all processes, in memory that they share.

A cell is of one endpoint of one listener. It has failures in a row, which are written under a lock, and what the
endpoint has done for each process, which that one writes and all read.
"""

import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from userproxy.forwarding.limits.counts import limits_bytes
from userproxy.forwarding.limits.lock import ByteLock
from userproxy.model import Endpoint

CELLS: Final = 65_536
"""So many endpoints can be told apart, over all listeners that eject."""

_COMMON: Final = 8
_OF_PLACE: Final = 2
_ROW: Final = 3
_OUT: Final = 2 * _ROW
_NANOSECONDS: Final = 1_000_000_000


class EjectionCell:
    """The cell of one endpoint."""

    __slots__ = ("_at", "_counts", "_ours", "_places")

    def __init__(self, counts: memoryview, at: int, ours: int, places: range) -> None:
        """Where it begins, where our own numbers are, and where those of every place are."""
        self._counts = counts
        self._at = at
        self._ours = ours
        self._places = places

    def row(self, *, by_reset: bool) -> tuple[int, float, int]:
        """Failures of a kind in a row: how many, when the last one was, and what had been done well by then."""
        at = self._at + _ROW * by_reset
        count, last, well = self._counts[at : at + _ROW]
        return count, last / _NANOSECONDS, well

    def note_row(self, count: int, last: float, well: int, *, by_reset: bool) -> None:
        """Be as :meth:`row` is to say. Under the lock."""
        at = self._at + _ROW * by_reset
        self._counts[at], self._counts[at + 1], self._counts[at + 2] = count, int(last * _NANOSECONDS), well

    @property
    def total(self) -> int:
        """How many connections or flows it has had, of all processes."""
        counts = self._counts
        return sum(counts[each] for each in self._places)

    @property
    def bytes_down(self) -> int:
        """How many bytes have come of it in those that have ended."""
        counts = self._counts
        return sum(counts[each + 1] for each in self._places)

    @property
    def is_out(self) -> bool:
        """Whether it is ejected."""
        return bool(self._counts[self._at + _OUT])

    @is_out.setter
    def is_out(self, is_out: bool) -> None:
        self._counts[self._at + _OUT] = is_out

    def count(self, total: int = 0, bytes_down: int = 0) -> None:
        """It has done so much more for us."""
        self._counts[self._ours] += total
        self._counts[self._ours + 1] += bytes_down

    def clear(self) -> None:
        """There are no failures, and it is not ejected."""
        for each in range(self._at, self._at + _COMMON):
            self._counts[each] = 0


class EjectionMemory:
    """The cells of all endpoints, behind what :class:`~userproxy.forwarding.limits.counts.LimitCounts` has.

    `place` counts from 0; the process that only watches has none.
    """

    def __init__(self, descriptor: int, processes: int, place: int | None = None) -> None:
        """Map the memory, which becomes large enough. The descriptor is locked by, and stays the caller's.

        Raises OSError.
        """
        start = limits_bytes(processes)
        self._stride = _COMMON + _OF_PLACE * processes
        size = start + 8 * self._stride * CELLS
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)  # what is not written to takes no memory
        self.lock = ByteLock(descriptor, start)
        """Who counts failures has it. Without it one of another process may be missed, or one endpoint too many be
        ejected, which the control process then takes back."""
        self._counts = memoryview(mmap.mmap(descriptor, size)).cast("q")[start // 8 :]
        self._ours = _COMMON + _OF_PLACE * (place or 0)

    def cell(self, number: int) -> EjectionCell:
        """The cell of a number below CELLS."""
        at = self._stride * number
        return EjectionCell(self._counts, at, at + self._ours, range(at + _COMMON, at + self._stride, _OF_PLACE))

    def flags(self, numbers: Iterable[int]) -> Sequence[int]:
        """Where it is said of the endpoints that have these cells whether they are ejected."""
        return [self._stride * each + _OUT for each in numbers]

    def set_flags(self, flags: Iterable[int]) -> int:
        """How many of them are: of 5,000 that takes a fraction of a millisecond."""
        return sum(map(self._counts.__getitem__, flags))

    def is_out(self, number: int) -> bool:
        """Whether the endpoint that has this cell is ejected."""
        return bool(self._counts[self._stride * number + _OUT])


class ListenerCells:
    """The cells of the endpoints of one listener, by their `numbers`."""

    __slots__ = ("_flags", "_memory", "_numbers", "lock")

    def __init__(self, memory: EjectionMemory, numbers: Mapping[Endpoint, int]) -> None:
        self._memory = memory
        self._numbers = numbers
        self._flags: Sequence[int] | None = None
        """Where it is said of each whether it is ejected, once that was asked."""
        self.lock = memory.lock
        """See :attr:`EjectionMemory.lock`."""

    def get(self, endpoint: Endpoint) -> EjectionCell | None:
        """That of an endpoint; None where there is no room for it."""
        number = self._numbers.get(endpoint, -1)
        return None if number < 0 else self._memory.cell(number)

    def out(self) -> int:
        """How many of the endpoints are ejected."""
        if self._flags is None:
            self._flags = self._memory.flags(each for each in self._numbers.values() if each >= 0)
        return self._memory.set_flags(self._flags)
