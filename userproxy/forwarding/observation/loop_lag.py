"""How late the event loop calls what is due."""

import asyncio
from collections import deque
from typing import Final

_EVERY_SECONDS: Final = 0.25
_KEPT_SECONDS: Final = 10.0


class LoopLag:
    """Looks four times a second, once it is started."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._delays: deque[float] = deque((0.0,), maxlen=int(_KEPT_SECONDS / _EVERY_SECONDS))
        self._timer: asyncio.TimerHandle | None = None

    @property
    def worst(self) -> float:
        """The longest delay of the last ten seconds, in seconds. May be read in any thread."""
        return max(tuple(self._delays))

    def start(self) -> None:
        """Begin to look."""
        self._wait()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        due = self._loop.time() + _EVERY_SECONDS
        self._timer = self._loop.call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        self._delays.append(max(0.0, self._loop.time() - due))
        self._wait()
