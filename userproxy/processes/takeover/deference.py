"""A successor that starts leaves the processor to its predecessor, which serves clients."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from userproxy.processes.scheduling import ask_for_long_turns

_LOWER: Final = 5
"""Added to the nice value: who starts has a third of what it would have beside others that want all of the time
(sched(7)). With 10 it is a tenth, and on a busy node a start took half a minute."""

_SOCKETS: Final = Path("/proc/net/unix")


class Deference:
    """Has this process, and those that it starts, go after others of its control group until :meth:`end`.

    A nice value is added only where it can be taken back, which takes CAP_SYS_NICE or RLIMIT_NICE. Without either
    nobody is at least interrupted (SCHED_BATCH). Long turns are asked for, too, and stay: who begins to carry traffic
    asks for short ones.
    """

    def __init__(self) -> None:
        self._nice: int | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether it has begun and not ended: somebody here serves, and this process has time."""
        return self._nice is not None

    def begin(self) -> None:
        """Do so, if anybody here listens for successors. To be called before there are threads."""
        if os.sched_getscheduler(0) != os.SCHED_OTHER or not _has_predecessor():
            return
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        ask_for_long_turns()
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            if _may_be_raised(self._nice):
                os.setpriority(os.PRIO_PROCESS, 0, self._nice + _LOWER)

    def end(self, children: Iterable[int] = ()) -> None:
        """Be as before, in all threads, and have `children` be so, too. Nothing happens if it did not begin."""
        nice, self._nice = self._nice, None
        if nice is None:
            return
        for thread in _threads((os.getpid(), *children)):
            with suppress(OSError):  # it has just ended
                if os.sched_getscheduler(thread) == os.SCHED_BATCH:
                    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                if os.getpriority(os.PRIO_PROCESS, thread) != nice:
                    os.setpriority(os.PRIO_PROCESS, thread, nice)


def _has_predecessor() -> bool:
    try:
        return b".takeover\n" in _SOCKETS.read_bytes()
    except OSError:
        return False


def _may_be_raised(nice: int) -> bool:
    """Whether a nice value below the present one is permitted, so that one above it could be taken back."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice - 1)
    except OSError:
        return False
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    return True


def _threads(processes: Iterable[int]) -> Iterator[int]:
    for process in processes:
        with suppress(OSError):
            yield from (int(each.name) for each in Path(f"/proc/{process}/task").iterdir())
