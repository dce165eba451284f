"""Resets connections on which nothing was said for too long, by what the kernel knows of that."""

import asyncio
from collections.abc import Iterable
from typing import Final

from userproxy.forwarding.poller import Poller
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.sockets import quiet_seconds
from userproxy.model.reports import Outcome

_GRAIN_SECONDS: Final = 0.005
"""The kernel knows when something was said to 4 ms."""

_NOT_OURS_SECONDS: Final = 0.05
"""How often to look whether a connection is ours by now, while it is another process's to reset."""


class IdleConnections:
    """The open connections of a listener whose Service limits how long nothing may be said. They have a timer each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, poller: Poller) -> None:
        """`poller` calls the connections' handlers, and is told of exceptions."""
        self._loop = loop
        self._poller = poller
        self._timers: dict[Relay, asyncio.TimerHandle] = {}
        self.seconds = seconds

    def watch(self, relay: Relay) -> None:
        """Reset a connection once nothing was said for long enough."""
        if not relay.closed:
            self._arm(relay, self.seconds)

    def watch_all(self, connections: Iterable[object]) -> None:
        """Watch those that are open; others are still being dialled."""
        for each in connections:
            if isinstance(each, Relay):
                self.watch(each)

    def forget(self, relay: Relay) -> None:
        """A connection has ended."""
        timer = self._timers.pop(relay, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Watch none any longer."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _arm(self, relay: Relay, seconds: float) -> None:
        self._timers[relay] = self._loop.call_later(seconds + _GRAIN_SECONDS, self._look, relay)

    def _look(self, relay: Relay) -> None:
        del self._timers[relay]
        if relay.closed:
            return
        if self._poller.is_paused:
            self._arm(relay, _NOT_OURS_SECONDS)
            return
        try:
            left = self.seconds - min(quiet_seconds(relay.sockets[0]))
            if left > 0:
                self._arm(relay, left)
            else:
                relay.abort(f"nothing was said for {self.seconds:g} s (userproxy.io/idle-timeout)", Outcome.TIMED_OUT)
        except Exception as error:  # noqa: BLE001 -- the loop has others to care for
            self._poller.failed(relay, error)
