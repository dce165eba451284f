"""Datagrams of one UDP listener's clients that come to no endpoint: they are held until there is one, or lost."""

from collections.abc import Iterator
from typing import Protocol

from userproxy.forwarding.holding.datagrams import HeldDatagram, HeldDatagrams
from userproxy.forwarding.observation.recorder import DecisionRing, Portal
from userproxy.forwarding.udp.datagrams import Inbox
from userproxy.forwarding.udp.losses import Losses
from userproxy.forwarding.udp.plane import UdpPlane
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Endpoint, ListenerName
from userproxy.model.reports import Outcome


class Listener(Protocol):
    """Whose they are."""

    plane: UdpPlane
    name: ListenerName
    portal: Portal
    inbox: Inbox
    losses: Losses
    decisions: DecisionRing
    statistics: UdpStatistics
    endpoints: frozenset[Endpoint]

    def now(self) -> float:
        """The loop's time."""

    def dispatch(self, count: int) -> None:
        """Have so many datagrams of the inbox go by their clients' flows."""


class Unserved:
    """Those of one listener. It has none to hold until :meth:`hold`."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._held: HeldDatagrams | None = None
        """Made when datagrams are first to be held."""

    @property
    def may_hold(self) -> bool:
        """Whether any were ever to be held."""
        return self._held is not None

    def clear(self) -> None:
        """Hold nothing any more, and deliver nothing."""
        if self._held is not None:
            self._held.clear()

    def drop(self, count: int) -> None:
        """Take notice of so many datagrams of the inbox that nobody may have."""
        listener = self._listener
        now = listener.now()
        numbers = range(count) if self._held is None else self._held.keep(range(count), now)
        listener.statistics.unserved += len(numbers)
        for number in numbers:
            if listener.losses.is_full(now):
                return
            self.note(number, "no endpoint may serve it", now)

    def hold(self, seconds: float | None) -> None:
        """Hold datagrams for so long from now on; None for not at all, and those that there are go to endpoints."""
        if self._held is None:
            listener = self._listener
            places = listener.plane.places.of(listener.name.service_port)
            call = (listener.statistics, self.deliver, self._lose)
            self._held = HeldDatagrams(listener.plane.loop, listener.inbox, places, *call)
        self._held.follow(seconds)

    def held(self) -> Iterator[tuple[tuple[str, int], HeldDatagram]]:
        """What is held for want of an endpoint, and of whom. It stays held."""
        return iter(()) if self._held is None else self._held.all()

    def adopt(self, held: HeldDatagram) -> None:
        """Hold what another process has held; where nothing is to be held it is lost."""
        if self._held is None or not self._held.adopt(held):
            self._listener.statistics.unserved += 1

    def note(self, number: int, reason: str, now: float) -> None:
        """Note that a datagram of the inbox has come to nobody, unless enough was said of such just now."""
        listener, inbox = self._listener, self._listener.inbox
        if listener.losses.take(inbox.memory[inbox.clients[number]], now):
            peer = inbox.address(number)
            entry = (now, listener.name, peer, listener.portal, None, Outcome.DROPPED, reason, (), 0.0, 0, 0, None, 0)
            listener.decisions.add(entry)

    def deliver(self) -> None:
        """Have the first datagram of the inbox go to an endpoint, if there are any."""
        if self._listener.endpoints:
            self._listener.dispatch(1)
        else:
            self.drop(1)

    def _lose(self, number: int, reason: str) -> None:
        self._listener.statistics.unserved += 1
        self.note(number, reason, self._listener.now())
