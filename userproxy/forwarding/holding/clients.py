"""The clients of one TCP listener who are held because there is no endpoint.

A held client is a dial that has failed and will begin again. Nothing is read of what the client says meanwhile.
"""

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Final

from userproxy.forwarding.holding.places import Places
from userproxy.forwarding.observation.counters import ListenerCounters
from userproxy.forwarding.observation.reasons import GIVEN_UP
from userproxy.forwarding.poller import HANGUP, LEAVING, Poller
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.model.holding import MOST_HELD

NO_ENDPOINT: Final = "there is no endpoint"

_LEFT: Final = "the client has left while it was held"
_FULL: Final = f"{MOST_HELD} clients are held, as many as may be (userproxy.io/hold)"

_AT_ONCE: Final = 64
"""So many dials begin in one turn of the loop, 100 us each."""


_PAUSE_SECONDS: Final = 0.005
"""Time to wait for one that waits itself, at its dial, before the next one is dialled for."""


class HeldClient:
    """One of them. It stands for the dial wherever a relay would."""

    __slots__ = ("_holding", "dial")

    def __init__(self, holding: "HeldClients", dial: Dial) -> None:
        self._holding = holding
        self.dial = dial

    def quiet(self) -> tuple[float, float]:
        """It never counts as idle; where one has to make room for others that is the newest of those looked at."""
        return 1.0 / (1.0 + self._holding.age(self.dial)), float("inf")

    def abort(self, reason: str = GIVEN_UP) -> None:
        """Give up."""
        self._holding.end(self.dial, reason)

    def on_event(self, events: int) -> None:
        """Notice that the client has gone: it will say nothing more."""
        if events & HANGUP:
            self._holding.end(self.dial, _LEFT)


class HeldClients:
    """All of them, in the order in which they came. Who is held no longer and not dialled for goes to `refuse`.

    `clock` is that of dials' times. `counters` are told how many are held.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: Poller,
        clock: Callable[[], float],
        places: Places,
        counters: ListenerCounters,
        refuse: Callable[[Dial, str], None],
    ) -> None:
        self._loop = loop
        self._poller = poller
        self._clock = clock
        self._places = places
        self._counters = counters
        self._refuse = refuse
        self._clients: dict[Dial, HeldClient] = {}
        self._seconds: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = False
        self._last: Dial | None = None
        """Who was dialled for last, while others are still held who came later."""

    def follow(self, seconds: float | None) -> None:
        """Hold clients for so long from when they came; None to hold none, and to dial for those who are held."""
        if seconds == self._seconds:
            return
        self._seconds = seconds
        if seconds is not None:
            self._arm()
        elif self._clients and not self._wakes:
            self._wake()

    def take(self, dial: Dial) -> str:
        """Hold the client of a dial that has found no endpoint: empty, or a clause that says why not."""
        seconds = self._seconds
        if seconds is None:
            return NO_ENDPOINT
        if self.age(dial) >= seconds:
            return _too_long(seconds)
        if not self._places.take():
            return _FULL
        client = HeldClient(self, dial)
        try:
            self._poller.add(dial.client.fileno(), LEAVING, client.on_event, client)
        except OSError as error:
            self._places.give()
            return f"{NO_ENDPOINT}, and it cannot be held: {error.strerror}"
        self._clients[dial] = client
        dial.closed, dial.relay = False, client
        self._counters.held = len(self._clients)
        if self._timer is None:
            self._arm()
        return ""

    def age(self, dial: Dial) -> float:
        """For how many seconds a client has been here."""
        return self._clock() - dial.opened

    def end(self, dial: Dial, reason: str) -> None:
        """Give a client up for a reason that is not ours."""
        if dial in self._clients:
            self._release(dial)
            dial.given_up = reason
            self._refuse(dial, reason)

    def _release(self, dial: Dial) -> None:
        del self._clients[dial]
        dial.closed, dial.relay = True, None
        self._poller.forget(dial.client)
        self._places.give()
        self._counters.held = len(self._clients)

    def _wake(self) -> None:
        """Dial for those who came first, and for the rest in the next turns, unless there is no endpoint again.

        One who waits for what another finds out about their addresses is waited for: so nobody overtakes him.
        """
        self._wakes = False
        if self._seconds is not None or self._is_forsaken():
            return
        pause = 0.0
        for dial in list(islice(self._clients, _AT_ONCE)):
            if self._last is not None and self._last.waits:
                pause = _PAUSE_SECONDS
                break
            self._release(dial)
            self._last = dial
            dial.begin_again()
        if self._clients:
            self._wakes = True
            self._loop.call_later(pause, self._wake)
        else:
            self._last = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._seconds is not None and self._clients:
            first = next(iter(self._clients))
            self._timer = self._loop.call_later(max(0.0, self._seconds - self.age(first)), self._expire)

    def _expire(self) -> None:
        self._timer = None
        seconds = self._seconds
        if seconds is None or self._is_forsaken():
            return
        for dial, client in list(self._clients.items()):
            if self.age(dial) < seconds:
                break
            self._release(dial)
            try:
                self._refuse(dial, _too_long(seconds))
            except Exception as error:  # noqa: BLE001 -- the others' time is over, too
                self._poller.failed(client, error)
        self._arm()

    def _is_forsaken(self) -> bool:
        """Whether another process holds them by now: only there a held one is not closed."""
        return any(dial.closed for dial in islice(self._clients, 1))


def _too_long(seconds: float) -> str:
    return f"no endpoint has come within {seconds:g} s (userproxy.io/hold)"
