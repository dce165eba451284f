"""Tables of balancers are made one after the other and in parts, with pauses in which connections are served."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

_PAUSE_SECONDS: Final = 0.005
"""After each part, which takes a millisecond or two."""

Make: TypeAlias = Callable[[], bool]
"""Does a part, and returns whether there is more to do."""


class TablesToMake:
    """What is to be done for balancers, of each the latest alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[object, Make] = {}
        self._current: tuple[object, Make] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, balancer: object, make: Make) -> None:
        """Have one made when it is its turn, in place of another one for the same balancer."""
        self._waiting[balancer] = make
        if self._current is not None and self._current[0] is balancer:
            self._current = None
        if self._timer is None:
            self._timer = self._loop.call_later(0.0, self._go_on)

    def stop(self) -> None:
        """Make none any more."""
        self._waiting.clear()
        self._current = None
        if self._timer is not None:
            self._timer.cancel()

    def _go_on(self) -> None:
        self._timer = None
        if self._current is None and self._waiting:
            balancer = next(iter(self._waiting))
            self._current = balancer, self._waiting.pop(balancer)
        if self._current is None:
            return
        self._timer = self._loop.call_later(_PAUSE_SECONDS, self._go_on)
        if not self._current[1]():
            self._current = None
