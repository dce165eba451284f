"""The budget of file descriptors. A shortage is noticed and logged here, and pauses accepting until it is over."""

import asyncio
import errno
import os
import resource
from collections.abc import Callable
from functools import partial

import structlog

from userproxy.errors import OutOfDescriptorsError
from userproxy.forwarding.log_limit import LogLimit

log = structlog.get_logger()

PER_CONNECTION = 2
"""The client's socket and its backend's."""

RESERVE = 64
"""Kept free for everything that is not a connection: files, iptables' pipes, the log."""

_FOR_PORTS = RESERVE // 2
"""What listeners and port claims may take of the reserve, so that connections keep no new Service out; the rest of it
is for running iptables."""

_PORTS_PART = 2 / 3
"""What listeners and port claims may have of all descriptors; the rest is for connections. Two thirds, so that the
10,000 Services that Kubernetes supports (its scalability thresholds) fit into a limit of 20,000 files."""

_RETRY_SECONDS = 0.1
"""How soon to try again after the kernel refused a descriptor (ENFILE, ENOBUFS: nothing tells when there are some)."""

_LOOK_FIRST, _LOOK_AT_LEAST = 0.1, 0.4
"""Seconds between two counts of what is open, while a listener waits: doubled from the first to the second."""

_OURS = "/proc/self/fd"

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_shortage(error: OSError) -> bool:
    """Whether accept(2), socket(2) or pipe(2) failed for want of descriptors or kernel memory."""
    return error.errno in _SHORTAGES


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return it.

    The original sets both to 64,000, which can lower a limit and fails without privilege.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def open_descriptors() -> int:
    """How many descriptors this process has open (proc(5)). Takes 15 ms for 20,000."""
    return len(os.listdir(_OURS)) - 1  # noqa: PTH208 -- a quarter of pathlib's time


def descriptors_counted_by_kernel() -> int | None:
    """The same, from the size that stat(2) gives for /proc/self/fd; None before Linux 6.2, where that is 0."""
    return os.stat(_OURS).st_size or None  # noqa: PTH116 -- a quarter of pathlib's time


def count_descriptors() -> int:
    """How many descriptors this process has open or is about to open, as the budget counts them.

    The kernel also counts those that calls under way in other threads have set aside, such as an accept(2) that waits.
    """
    return descriptors_counted_by_kernel() or open_descriptors()


class DescriptorBudget:
    """How many descriptors the data plane may still open, and which listeners wait for one.

    The data plane counts its own. Those of the rest of the process are counted with :meth:`recount`: when the control
    plane has worked, and repeatedly while a listener waits. `kept` descriptors, besides the reserve, are for parts of
    the process that may open them at any time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        kept: int = 0,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        """`settle` closes the sockets that were given back to the budget and are still open; called before counting."""
        self._loop = loop
        self._settle = settle
        self._limit = limit
        self._reserve = RESERVE + kept
        self._room = 0
        """What is free and what the data plane has."""
        self._ports = 0
        self.most_ports = max(_FOR_PORTS, int((limit - self._reserve) * _PORTS_PART))
        """How many listeners and claims there may be."""
        self.free = 0
        """What is left for connections and flows."""
        # Callbacks in the order in which they are called; asking twice is waiting once.
        self.waiting: dict[Callable[[], None], None] = {}
        self._refused: dict[Callable[[], None], None] = {}
        self._wake: asyncio.Handle | None = None
        self._retry: asyncio.Handle | None = None
        self._look: asyncio.Handle | None = None
        self._look_after = _LOOK_FIRST
        self._shortage = LogLimit()
        self._counting: asyncio.Future[int] | None = None
        self._counted(count_descriptors(), 0)

    def recount(self) -> None:
        """Count what the process has open: at once, or in a thread where the kernel has no count.

        Not to be called by handlers of the poller, because `settle` closes sockets.
        """
        self._settle()
        try:
            count = descriptors_counted_by_kernel()
        except OSError:
            count = None
        if count is not None:
            self._counted(count, self._mine)
        elif self._counting is None:
            self._counting = self._loop.run_in_executor(None, open_descriptors)
            self._counting.add_done_callback(partial(self._count_ended, self._mine))

    def _count_ended(self, mine: int, counting: asyncio.Future[int]) -> None:
        self._counting = None
        if counting.cancelled():
            return
        if counting.exception() is None:
            self._counted(counting.result(), mine)
        else:  # none is left to count them with
            ours = self._mine
            self.free = min(self.free, 0)
            self._room = self.free + ours

    def _counted(self, count: int, mine: int) -> None:
        """`count` are open, among them the `mine` that the data plane had then."""
        ours = self._mine
        self.free = self._limit - self._reserve - count - (ours - mine)
        self._room = self.free + ours
        self.wake_soon()

    @property
    def _mine(self) -> int:
        """What the data plane has."""
        return self._room - self.free

    def take(self, count: int) -> bool:
        """Count `count` descriptors as ours, if there are as many left."""
        if self.free < count:
            return False
        self.free -= count
        return True

    def adopt(self, count: int) -> None:
        """Count descriptors as ours that another process has handed to us, whatever is left."""
        self.free -= count

    def adopt_port(self) -> None:
        """Count a listener's or a claim's descriptor as ours that another process has handed to us."""
        self._ports += 1
        self.adopt(1)

    def take_for_port(self) -> bool:
        """Count a listener's or a claim's descriptor as ours, if need be from the reserve; up to their share."""
        if self._ports >= self.most_ports or self.free + _FOR_PORTS < 1:
            return False
        self.count_port()
        return True

    def hold_port(self) -> None:
        """As :meth:`take_for_port`. Raises OutOfDescriptorsError where there is none left for it."""
        if not self.take_for_port():
            raise OutOfDescriptorsError(
                f"the limit of open files, {self._limit}, leaves {self.most_ports} to listeners and node ports"
            )

    def count_port(self) -> None:
        """Count a listener's descriptor that is open already, whatever is left for connections then."""
        self._ports += 1
        self.free -= 1

    def give_port(self) -> None:
        """Count a listener's or a claim's descriptor as closed."""
        self._ports -= 1
        self.give(1)

    @property
    def room_for_ports(self) -> int:
        """How many more listeners and claims there may be now."""
        return max(0, min(self.most_ports - self._ports, self.free + _FOR_PORTS))

    def give(self, count: int) -> None:
        """Count `count` descriptors as closed; listeners that wait are called soon."""
        self.free += count
        if self.waiting:
            self.wake_soon()

    def wait(self, resume: Callable[[], None], *, refused_by_kernel: bool = False) -> None:
        """Have `resume` called once when descriptors may be had again. Logs the start of a shortage.

        Waiting listeners are called in turn while the descriptors of a connection are left, so that each gets some.
        They are also called from time to time without, and have to ask the budget again.
        """
        if self._shortage.begins(self._loop.time()):
            log.warning(
                "Out of descriptors: new connections wait in the kernel's queue until others end",
                limit=self._limit,
                held_by_connections=self._mine,
            )
        if not refused_by_kernel:
            self.waiting[resume] = None
            if self._look is None:
                self._look = self._loop.call_later(self._look_after, self._look_again)
            return
        self._refused[resume] = None
        if self._retry is None:
            self._retry = self._loop.call_later(_RETRY_SECONDS, self._try_again)

    def shut_down(self) -> None:
        """Cancel all timers and forget the callbacks."""
        self.waiting.clear()
        self._refused.clear()
        for pending in (self._wake, self._retry, self._look, self._counting):
            if pending is not None:
                pending.cancel()

    def wake_soon(self) -> None:
        if self.waiting and self._wake is None:
            self._wake = self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._wake = None
        waiting, self.waiting = list(self.waiting), {}
        for number, resume in enumerate(waiting):
            if self.free < PER_CONNECTION:
                self.waiting = dict.fromkeys(waiting[number:]) | self.waiting
                break
            resume()

    def _resume_all(self) -> None:
        """Call all: a listener may be able to make room by now."""
        waiting, self.waiting = self.waiting, {}
        for resume in waiting:
            resume()

    def _look_again(self) -> None:
        """Other parts of the process may have closed files, and connections may have become idle."""
        self._look = None
        if not self.waiting:
            self._look_after = _LOOK_FIRST
            return
        self._look_after = min(2 * self._look_after, _LOOK_AT_LEAST)
        self._look = self._loop.call_later(self._look_after, self._look_again)
        self.recount()
        self._resume_all()

    def _try_again(self) -> None:
        self._retry = None
        refused, self._refused = self._refused, {}
        for resume in refused:
            resume()
