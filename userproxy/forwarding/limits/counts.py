"""How many connections each of several processes has of a service port, in memory that they share.

Each process writes its own numbers and reads the others'. A process that is about to accept a client writes so first,
and looks at the others' numbers then: of two that do so at the same time at most one goes on, and never both beyond
the limit. With the lock of the service port exactly one does. One that takes from the token bucket of a rate looks once
more after it has written: of two that do so at the same time at least one sees the other, and counts both.
"""

import mmap
import os
from typing import Final

from userproxy.forwarding.accept_turns import TALLY_BYTES
from userproxy.forwarding.limits.lock import ByteLock

SLOTS: Final = 8192
"""So many service ports with limits can be told apart."""

_NUMBERS: Final = 4
_BYTES_OF_PLACE: Final = 8 * _NUMBERS * SLOTS

_NANOSECONDS: Final = 1_000_000_000


def limits_bytes(processes: int) -> int:
    """How much of the memory turns and limits take; what is behind is for others."""
    return TALLY_BYTES + processes * _BYTES_OF_PLACE


class Column:
    """The numbers of one service port: connections, clients who are next in turn and wait, clients who are held, and
    when its token bucket is full again, of CLOCK_MONOTONIC: the latest of all processes' counts."""

    __slots__ = ("_counts", "_others", "_ours", "lock")

    def __init__(self, counts: memoryview, ours: int, others: tuple[tuple[int, bool], ...], lock: ByteLock) -> None:
        """Where our numbers are, and those of others: before us in the order of places, or not."""
        self.lock = lock
        """Who lets a client in with it alone sees only clients of others who are in. Who does without, or could not
        have it, is not let in beyond the limit either, but two at a time may both stay out."""
        self._counts = counts
        self._ours = ours
        self._others = others

    def write(self, connections: int, first: int) -> None:
        """Note how many connections we have, and how many clients who are next in turn."""
        self._counts[self._ours] = connections
        self._counts[self._ours + 1] = first

    def hold(self, clients: int) -> None:
        """Note how many clients we hold because there is no endpoint."""
        self._counts[self._ours + 2] = clients

    def held_by_others(self) -> int:
        """How many clients others hold."""
        counts = self._counts
        return sum(counts[at + 2] for at, _ in self._others)

    def others(self, *, is_first: bool) -> int:
        """How many others have or want: for a client of ours who is next in turn, only those before us want.

        Else two processes with such a client each would wait for the other.
        """
        counts = self._counts
        found = 0
        for at, is_before in self._others:
            found += counts[at]
            if is_before or not is_first:
                found += counts[at + 1]
        return found

    def full_at(self) -> float:
        """When the token bucket of all processes is full, in seconds."""
        return self._latest() / _NANOSECONDS

    def take(self, now: float, step: float) -> None:
        """Put off by `step` when the bucket is full, which is `now` at the earliest."""
        ahead = int(step * _NANOSECONDS)
        seen = max(int(now * _NANOSECONDS), self._latest())
        self._counts[self._ours + 3] = seen + ahead
        theirs = max((self._counts[at + 3] for at, _ in self._others), default=0)
        if theirs > seen:  # another process has taken one meanwhile, and may not have seen ours
            self._counts[self._ours + 3] = theirs + ahead

    def forget_taken(self) -> None:
        """What we have taken was of another bucket. Others say so themselves."""
        self._counts[self._ours + 3] = 0

    def clear(self) -> None:
        """Have nothing any more."""
        for each in range(_NUMBERS):
            self._counts[self._ours + each] = 0

    def leave(self) -> None:
        """The numbers are another service port's by now: count where nobody looks, until there is another place."""
        self._counts, self._ours, self._others = memoryview(bytearray(8 * _NUMBERS)).cast("q"), 0, ()

    def _latest(self) -> int:
        counts = self._counts
        latest = counts[self._ours + 3]
        for at, _ in self._others:
            latest = max(latest, counts[at + 3])
        return latest


class LimitCounts:
    """The numbers of `processes` processes, in the memory of :func:`~userproxy.forwarding.accept_turns.open_tally`.

    `place` counts from 0; the process that only watches has none.
    """

    def __init__(self, descriptor: int, processes: int, place: int | None = None) -> None:
        """Map the memory, which becomes large enough. The descriptor is locked by, and stays the caller's.

        Raises OSError.
        """
        self._descriptor = descriptor
        size = limits_bytes(processes)
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)  # what is not written to takes no memory
        self._memory = mmap.mmap(descriptor, size)
        self._counts = memoryview(self._memory).cast("q")
        self._processes = processes
        self._place = place

    def column(self, slot: int) -> Column:
        """The numbers of the service port that has this slot."""
        mine = self._place or 0
        others = tuple((_at(each, slot), each < mine) for each in range(self._processes) if each != mine)
        return Column(self._counts, _at(mine, slot), others, ByteLock(self._descriptor, TALLY_BYTES + slot))

    def clear(self, place: int) -> None:
        """A process has ended, and has nothing any more."""
        start = TALLY_BYTES + place * _BYTES_OF_PLACE
        self._memory[start : start + _BYTES_OF_PLACE] = bytes(_BYTES_OF_PLACE)


def _at(place: int, slot: int) -> int:
    return (TALLY_BYTES + place * _BYTES_OF_PLACE) // 8 + _NUMBERS * slot
