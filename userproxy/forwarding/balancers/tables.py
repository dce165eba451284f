"""Tables of balancers are made one after the other, with pauses in which connections are served."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger()

_PAUSE_SECONDS: Final = 0.01
"""After each, which takes as long."""


class TablesToMake:
    """What is to be done for balancers, of each the latest alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[object, Callable[[], object]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, balancer: object, make: Callable[[], object]) -> None:
        """Have one made when it is its turn, in place of another one for the same balancer."""
        self._waiting[balancer] = make
        if self._timer is None:
            self._timer = self._loop.call_later(0.0, self._make_next)

    def stop(self) -> None:
        """Make none any more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _make_next(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        balancer = next(iter(self._waiting))
        make = self._waiting.pop(balancer)
        if self._waiting:
            self._timer = self._loop.call_later(_PAUSE_SECONDS, self._make_next)
        make()
