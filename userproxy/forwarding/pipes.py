"""Pipes for splice(2): bulk data passes through the kernel without being copied to us and back."""

import contextlib
import fcntl
import os
from typing import Final

from userproxy.forwarding.descriptors import DescriptorBudget

PIPE_BYTES: Final = 1024 * 1024
"""The unprivileged maximum (/proc/sys/fs/pipe-max-size). The default of 64 KiB halves the throughput."""

MOST_PIPES: Final = 64
"""Directions that splice at once; the others copy. 64 MiB is also the default pipe quota of a user (pipe(7))."""


class Pipe:
    """One pipe and how many bytes are in it."""

    __slots__ = ("fill", "read_end", "write_end")

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.fill = 0
        with contextlib.suppress(OSError):  # over the user's quota: a small pipe still works
            fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


class PipePool:
    """At most MOST_PIPES pipes, made when first needed and kept until the end."""

    def __init__(self, budget: DescriptorBudget) -> None:
        self._budget = budget
        self._idle: list[Pipe] = []
        self._made = 0

    def borrow(self) -> Pipe | None:
        """An empty pipe, or None if there is none to be had: then the caller copies."""
        if self._idle:
            return self._idle.pop()
        if self._made >= MOST_PIPES or not self._budget.take(2):
            return None
        try:
            pipe = Pipe()
        except OSError:
            self._budget.give(2)
            return None
        self._made += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Return a pipe. One that still holds bytes is closed: they are another connection's."""
        if pipe.fill:
            self._discard(pipe)
        else:
            self._idle.append(pipe)

    def close(self) -> None:
        """Close the pipes that nobody has borrowed."""
        while self._idle:
            self._discard(self._idle.pop())

    def _discard(self, pipe: Pipe) -> None:
        pipe.close()
        self._made -= 1
        self._budget.give(2)
