"""Pipes for splice(2): bulk data passes through the kernel without being copied to us and back."""

import contextlib
import fcntl
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from userproxy.forwarding.descriptors import DescriptorBudget

PIPE_BYTES: Final = 1024 * 1024
"""The unprivileged maximum (/proc/sys/fs/pipe-max-size). The default of 64 KiB halves the throughput."""

MOST_PIPES: Final = 64
"""How many directions can splice at a time; others copy. 64 MiB is also the default pipe quota of a user (pipe(7))."""

STALL_SECONDS: Final = 1.0
"""A direction whose sink has taken nothing for so long loses its pipe, if another direction wants one."""

MOST_KEPT: Final = MOST_PIPES * PIPE_BYTES
"""How many bytes that were in such pipes may be kept in memory, for all directions together."""


class Pipe:
    """One pipe and how many bytes are in it."""

    __slots__ = ("fill", "read_end", "write_end")

    def __init__(self, ends: tuple[int, int] | None = None, fill: int = 0) -> None:
        """A new pipe, or one whose ends another process has handed to us with so many bytes in it."""
        self.read_end, self.write_end = ends or os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.fill = fill
        with contextlib.suppress(OSError):  # over the user's quota: a small pipe still works
            fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


class PipePool:
    """At most MOST_PIPES pipes, made when first needed and kept until the end.

    When all are lent, the one whose sink has been stuck for longest is taken away from its direction.
    """

    def __init__(self, budget: DescriptorBudget, now: Callable[[], float]) -> None:
        self._budget = budget
        self._now = now
        self._idle: list[Pipe] = []
        self._made = 0
        self._kept = 0
        # In the order in which their sinks last took something: since when, and who keeps what is in them.
        self._stuck: OrderedDict[Pipe, tuple[float, Callable[[bytes], None]]] = OrderedDict()

    @property
    def made(self) -> int:
        """How many pipes there are, in use or idle."""
        return self._made

    def borrow(self) -> Pipe | None:
        """An empty pipe, or None if there is none: then the caller copies."""
        if self._idle:
            return self._idle.pop()
        return self._make() or self._take_away()

    def adopt(self, ends: tuple[int, int], fill: int) -> Pipe:
        """A pipe of another process with what is in it, as if it had been borrowed."""
        self._budget.adopt(2)
        self._made += 1
        return Pipe(ends, fill)

    def adopt_kept(self, count: int) -> None:
        """Count bytes that another process has kept, and that are somebody's here."""
        self._kept += count

    def stuck(self, pipe: Pipe, keep: Callable[[bytes], None]) -> None:
        """Note that a lent pipe's sink takes no more for now.

        If the pipe is wanted elsewhere, `keep` is called with what is in it, and it is no longer the borrower's.
        """
        self._stuck[pipe] = (self._now(), keep)
        self._stuck.move_to_end(pipe)

    def moves(self, pipe: Pipe) -> None:
        """Note that a lent pipe's sink has taken all that was in it."""
        self._stuck.pop(pipe, None)

    def let_go(self, count: int) -> None:
        """Note that so many of the kept bytes are sent or dropped."""
        self._kept -= count

    def give_back(self, pipe: Pipe) -> None:
        """Return a pipe. One that still holds bytes is closed: they are another connection's."""
        self._stuck.pop(pipe, None)
        if pipe.fill:
            self._discard(pipe)
        else:
            self._idle.append(pipe)

    def close(self) -> None:
        """Close the pipes that nobody has borrowed."""
        while self._idle:
            self._discard(self._idle.pop())

    def _make(self) -> Pipe | None:
        if self._made >= MOST_PIPES or not self._budget.take(2):
            return None
        try:
            pipe = Pipe()
        except OSError:
            self._budget.give(2)
            return None
        self._made += 1
        return pipe

    def _take_away(self) -> Pipe | None:
        if not self._stuck:
            return None
        pipe, (since, keep) = next(iter(self._stuck.items()))
        if self._now() - since < STALL_SECONDS or self._kept + pipe.fill > MOST_KEPT:
            return None
        del self._stuck[pipe]
        self._kept += pipe.fill
        keep(os.read(pipe.read_end, pipe.fill))
        pipe.fill = 0
        return pipe

    def _discard(self, pipe: Pipe) -> None:
        pipe.close()
        self._made -= 1
        self._budget.give(2)
