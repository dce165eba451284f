"""A lock that several processes have in common, which the kernel lifts where one of them is killed."""

import fcntl
import time
from types import TracebackType
from typing import Final

_TRIES: Final = 25
_PAUSE_SECONDS: Final = 0.0002
"""How long to wait for the lock, in all some milliseconds: who has it needs microseconds, and may have been stopped in
there. Nobody waits for that one, so what is done with the lock must do no great harm without it."""


class ByteLock:
    """The lock on one byte of a file, which need not be there (fcntl_locking(2)): of all processes, not of threads.

    The descriptor stays the caller's, who is to close no other one of this file meanwhile: that unlocks.
    """

    __slots__ = ("_at", "_descriptor", "_is_ours")

    def __init__(self, descriptor: int, at: int) -> None:
        self._descriptor = descriptor
        self._at = at
        self._is_ours = False

    def __enter__(self) -> bool:
        """Returns whether we have it."""
        self._is_ours = self._acquire()
        return self._is_ours

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_ours:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._at)

    def _acquire(self) -> bool:
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._at)
            except BlockingIOError:
                time.sleep(_PAUSE_SECONDS)
            except OSError:  # no memory for it, or the descriptor is closed
                return False
            else:
                return True
        return False
