"""The last datagrams of the clients of one UDP listener, held because there is no endpoint."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from userproxy.forwarding.holding.places import Places
from userproxy.forwarding.observation.counters import ListenerCounters
from userproxy.forwarding.udp.datagrams import Inbox

MOST_BYTES: Final = 1 << 20
"""So many bytes of a listener's clients are held at most."""

_AT_ONCE: Final = 64
"""So many flows begin in one turn of the loop."""


class HeldDatagram(NamedTuple):
    """One, as it stood in the inbox: who sent it to which address, and what. It came at `since`."""

    addresses: bytes
    payload: bytes
    since: float


class HeldDatagrams:
    """All of them, in the order in which their clients came.

    `deliver` is called for each that is in the inbox once more, as its first datagram. `lose` is called with the place
    in an inbox, a clause and the time for one that nobody got.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        inbox: Inbox,
        places: Places,
        counters: ListenerCounters,
        deliver: Callable[[], None],
        lose: Callable[[int, str], None],
    ) -> None:
        self._loop = loop
        self._inbox = inbox
        self._places = places
        self._counters = counters
        self._deliver = deliver
        self._lose = lose
        self._held: dict[bytes, HeldDatagram] = {}
        self._bytes = 0
        self._seconds: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = False

    def follow(self, seconds: float | None) -> None:
        """Hold datagrams for so long; None to hold none, and to deliver those that there are."""
        if seconds == self._seconds:
            return
        self._seconds = seconds
        self._stop()
        if seconds is not None:
            self._arm()
        elif self._held and not self._wakes:
            self._wake()

    def keep(self, numbers: Iterable[int], now: float) -> list[int]:
        """Hold these datagrams of the inbox, each in place of its client's earlier one. Returns those without room."""
        if self._seconds is None:
            return list(numbers)
        left = [number for number in numbers if not self._keep(number, now)]
        if self._timer is None:
            self._arm()
        return left

    def all(self) -> Iterator[tuple[tuple[str, int], HeldDatagram]]:
        """Each with the address and port of its client. They stay held."""
        for held in self._held.values():
            self._inbox.put(held.addresses, held.payload)
            yield self._inbox.address(0), held

    def adopt(self, held: HeldDatagram) -> bool:
        """Hold one that another process has held; False where there is no room, or nothing is to be held."""
        self._inbox.put(held.addresses, held.payload)
        return not self.keep((0,), held.since)

    def clear(self) -> None:
        """Hold nothing any more, and deliver nothing."""
        self._seconds = None
        self._stop()
        for client in list(self._held):
            self._release(client)

    def _keep(self, number: int, now: float) -> bool:
        inbox = self._inbox
        client = inbox.memory[inbox.clients[number]]
        before = self._held.get(client)
        size = inbox.sizes[number] - (0 if before is None else len(before.payload))
        if self._bytes + size > MOST_BYTES or (before is None and not self._places.take()):
            return False
        self._bytes += size
        self._held[client] = HeldDatagram(*inbox.datagram(number), now)
        self._counters.held = len(self._held)
        return True

    def _release(self, client: bytes) -> HeldDatagram:
        held = self._held.pop(client)
        self._bytes -= len(held.payload)
        self._places.give()
        self._counters.held = len(self._held)
        return held

    def _wake(self) -> None:
        """Deliver those of the first clients, and the rest in the next turns, unless there is no endpoint again."""
        self._wakes = False
        if self._seconds is not None:
            return
        for client in list(islice(self._held, _AT_ONCE)):
            held = self._release(client)
            self._inbox.put(held.addresses, held.payload)
            self._deliver()
        if self._held:
            self._wakes = True
            self._loop.call_soon(self._wake)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._seconds is not None and self._held:
            due = min(held.since for held in self._held.values()) + self._seconds
            self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        seconds = self._seconds
        if seconds is None:
            return
        now = self._loop.time()
        for client in [client for client, held in self._held.items() if held.since + seconds <= now]:
            held = self._release(client)
            self._inbox.put(held.addresses, held.payload)
            self._lose(0, f"no endpoint has come within {seconds:g} s (userproxy.io/hold)")
        self._arm()
