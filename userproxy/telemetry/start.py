"""How long the start takes, phase by phase, in the log at ``-v 1``."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from userproxy.addresses import IPFamily

log = structlog.get_logger()


class Start:
    """The start of a process, until the portals of the first of `families` stand for the first time.

    `done` is called then. The others may need tools that this node has only later, or never.
    """

    def __init__(self, families: Sequence[IPFamily], done: Callable[[], None] = lambda: None) -> None:
        self._began = process_start()
        self._first = families[0] if families else None
        self._synced: set[IPFamily] = set()
        self._done = done

    def reached(self, phase: str, **fields: object) -> None:
        """Log that a phase has ended: seconds since the process began, and CPU seconds of it and of its programs."""
        user, system, of_programs, of_programs_in_kernel, _ = os.times()
        cpu = user + system + of_programs + of_programs_in_kernel
        seconds = max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - self._began)
        log.debug("Start", v=1, phase=phase, seconds=round(seconds, 3), cpu_seconds=round(cpu, 3), **fields)

    def synced(self, family: IPFamily) -> None:
        """The portals of a family stand as they should."""
        if family not in self._synced:
            self._synced.add(family)
            self.reached("portals stand", family=family)
            if family is self._first:
                self._done()


def process_start() -> float:
    """When this process began, on the clock CLOCK_BOOTTIME (proc_pid_stat(5), starttime); now if that is not told."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
