"""Notices data processes that hang: stopped by a signal, in a loop without end, or waiting for ever."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from userproxy.processes.control.worker import Worker

_LOOK_SECONDS: Final = 1.0
"""A data process says how it is at least as often."""

SILENT_LOOKS: Final = 10
"""After so many looks without a word a data process hangs. Its clients wait meanwhile, and are cut then: a process that
still serves them does not lack the CPU for ten seconds."""

SILENT_LOOKS_AT_START: Final = 60
"""The same for one that is being started: it loads its program then."""


class Heartbeats:
    """Ends the data processes of `serving()` that hang.

    Looks are counted rather than time: if the control process itself was held up, it looks once, and reads what was
    sent to it meanwhile before it looks again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, serving: Callable[[], Sequence[Worker]]) -> None:
        self._loop = loop
        self._serving = serving
        self._silent: dict[Worker, tuple[int, int]] = {}
        """How many messages each had sent when it was last heard of, and how many looks ago that was."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on."""
        self._timer = self._loop.call_later(_LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Look no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.start()
        before, self._silent = self._silent, {}
        for worker in self._serving():
            messages, looks = before.get(worker, (-1, 0))
            looks = looks + 1 if messages == worker.messages else 0
            self._silent[worker] = worker.messages, looks
            if looks == (SILENT_LOOKS if worker.is_ready else SILENT_LOOKS_AT_START):
                worker.kill(f"it had not said anything for {looks * _LOOK_SECONDS:.0f} s")
