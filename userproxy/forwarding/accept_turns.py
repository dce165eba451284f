"""Which of several processes accepts the next client of a socket that they share: the one that has fewest.

The kernel wakes all of them. (EPOLLEXCLUSIVE would wake one, but only of those that wait in epoll_wait(2) itself: our
epoll is watched by that of the event loop, and for such ones the kernel asks on, see ep_poll_callback() in
fs/eventpoll.c. And it would be the same one each time.) The quickest would get most clients, so who has more than
another leaves it a millisecond, and accepts then if the client still waits.
"""

import mmap
import os
from typing import Final

ABSENT: Final = 1 << 60
"""The number of connections of a process that is not there: nobody waits for it."""

_NUMBERS: Final = 2
_BYTES: Final = 8 * _NUMBERS

_FEW: Final = 2
"""A difference of so many clients is none."""

TALLY_BYTES: Final = mmap.PAGESIZE
"""What turns need of the memory; what is behind is for others."""

MOST_PROCESSES: Final = TALLY_BYTES // _BYTES


def open_tally() -> int:
    """The descriptor of memory in which each process counts. Raises OSError."""
    descriptor = os.memfd_create("userproxy-accept-turns")
    os.ftruncate(descriptor, TALLY_BYTES)
    return descriptor


class AcceptTurns:
    """The counts of `processes` processes in shared memory; `place` is ours, None for the one that only watches.

    Each has two numbers: its connections, and the clients that it has accepted, which tell apart who has equally many.
    They are read while others write them: a stale number costs an uneven client.
    """

    def __init__(self, descriptor: int, processes: int, place: int | None = None) -> None:
        """Map the memory; the descriptor stays the caller's. Raises OSError."""
        self._memory = mmap.mmap(descriptor, TALLY_BYTES)
        self._counts = memoryview(self._memory).cast("q")
        self._others = [_NUMBERS * each for each in range(processes) if each != place]
        self._ours = _NUMBERS * (place or 0)

    def mine(self, connections: int) -> None:
        """Note how many connections we have."""
        self._counts[self._ours] = connections

    def accepted(self, clients: int) -> None:
        """Note that we have accepted clients."""
        self._counts[self._ours + 1] += clients

    def others_first(self, connections: int) -> bool:
        """Whether another process has clearly fewer connections, or no more and has accepted clearly fewer clients."""
        counts, ours = self._counts, self._ours
        counts[ours] = connections
        accepted = counts[ours + 1] - _FEW
        for each in self._others:
            theirs = counts[each]
            if theirs <= connections and (theirs + _FEW + (theirs >> 5) < connections or counts[each + 1] < accepted):
                return True
        return False

    @property
    def is_first(self) -> bool:
        """Whether no process before us is there: clients who must keep their order are the first one's."""
        counts, ours = self._counts, self._ours
        return all(counts[each] >= ABSENT for each in self._others if each < ours)

    def absent(self, place: int) -> None:
        """Wait for a process no longer. For the one that watches."""
        self._counts[_NUMBERS * place] = ABSENT

    def present(self, place: int) -> None:
        """Wait for a process from now on, which has no connection, and has accepted as many clients as the others."""
        accepted = [self._counts[each + 1] for each in self._others if self._counts[each] < ABSENT]
        self._counts[_NUMBERS * place + 1] = max(accepted, default=0)
        self._counts[_NUMBERS * place] = 0

    def connections(self, place: int) -> int:
        """How many connections a process had when it last looked; 0 if it is not there."""
        count = self._counts[_NUMBERS * place]
        return 0 if count >= ABSENT else count

    def close(self) -> None:
        """Unmap the memory."""
        self._counts.release()
        self._memory.close()
