"""Precedence for the moments of a take-over in which nobody is served."""

import gc
import os
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

_FIRST: Final = -20
"""The lowest nice value, sched(7). With 0 a process of a busy node waits for turns of several others, 3 ms each."""


class Urgency:
    """Has the calling thread go before other programs, and collect no garbage.

    The former where it may (CAP_SYS_NICE or RLIMIT_NICE). Between :meth:`begin` and :meth:`end`, or in its context. To
    be kept short. What is started meanwhile, a thread or another process, has nice value 0: it would keep the
    precedence for as long as it lives.
    """

    def __init__(self) -> None:
        self._nice: int | None = None
        self._policy = os.SCHED_OTHER
        self._collected = False

    def begin(self) -> None:
        """Do so from now on; nothing happens if it does already."""
        if self._nice is None:
            self._nice = os.getpriority(os.PRIO_PROCESS, 0)
            self._collected = gc.isenabled()
            gc.disable()
            with suppress(OSError):
                self._policy = os.sched_getscheduler(0)
                os.sched_setscheduler(0, self._policy | os.SCHED_RESET_ON_FORK, os.sched_getparam(0))
                os.setpriority(os.PRIO_PROCESS, 0, _FIRST)

    def end(self) -> None:
        """Be as before."""
        nice, self._nice = self._nice, None
        if nice is None:
            return
        if self._collected:
            gc.enable()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        with suppress(OSError):  # without CAP_SYS_NICE what is started goes on to have nice value 0 at least
            os.sched_setscheduler(0, self._policy, os.sched_getparam(0))

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
