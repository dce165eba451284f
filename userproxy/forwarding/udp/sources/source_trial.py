"""Whether answers to a client's own address come back, found out with its flows.

A datagram that is lost says nothing, and neither does an endpoint that never answers, as a syslog server. So silence
alone decides nothing: a client that asks again without having been answered asks from the node's address for a while,
and answers are taken at both addresses. Whichever is answered first is used from then on. Where neither is, the
client's own is used again, and there is a pause before the next trial.
"""

import errno
from collections.abc import Hashable
from socket import SocketType
from typing import Final, Protocol

from userproxy.forwarding.return_pairs import ReturnPair
from userproxy.forwarding.udp.sources.flow_sources import FlowSources
from userproxy.model import Endpoint, ListenerName
from userproxy.model.reports import Source, SourceFallback

AGAIN_SECONDS: Final = 0.25
"""A datagram so long after an unanswered one asks again: the time limit of a first dial. Before, it is one question."""

PATIENCE_SECONDS: Final = 1.0
"""How long a trial lasts at least; the next datagram ends it."""

_FIRST_PAUSE: Final = 60.0
_LONGEST_PAUSE: Final = 600.0
_MOST_PAUSES: Final = 1024

_NOT_TO_BE_USED: Final = frozenset(
    {errno.EPERM, errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EAFNOSUPPORT}
)
"""What send(2) says where routes or filters of this node do not let the client's address out."""


class Pauses:
    """How long a listener that has never had an answer waits for its next trial, by pair. Pure.

    While one goes on there is no other, and each that was in vain doubles the pause after the next.
    """

    __slots__ = ("_pauses",)

    def __init__(self) -> None:
        self._pauses: dict[Hashable, tuple[float, float]] = {}
        """Until when there is to be none, and how long the pause will be after one in vain."""

    def begin(self, pair: Hashable, now: float) -> bool:
        """Whether a trial may begin now; then it has begun."""
        until, pause = self._pauses.pop(pair, (now, _FIRST_PAUSE))
        while len(self._pauses) >= _MOST_PAUSES:
            del self._pauses[next(iter(self._pauses))]
        may_begin = now >= until
        self._pauses[pair] = (now + PATIENCE_SECONDS if may_begin else until, pause)
        return may_begin

    def in_vain(self, pair: Hashable, now: float) -> None:
        """Note that a trial has ended without an answer."""
        _, pause = self._pauses.pop(pair, (now, _FIRST_PAUSE))
        self._pauses[pair] = (now + pause, min(2 * pause, _LONGEST_PAUSE))

    def clear(self) -> None:
        """Let trials begin at once: there are other endpoints."""
        self._pauses.clear()


class Listener(Protocol):
    """What a trial needs of its flow's listener."""

    pauses: Pauses

    name: ListenerName

    @property
    def has_answered(self) -> bool:
        """Whether any of its endpoints ever has."""

    def now(self) -> float:
        """The loop's time."""

    def sources_of(self, client: str) -> FlowSources | None:
        """Whose address endpoints are to see of a client; None for the node's."""


class Flow(Protocol):
    """What a trial needs of its flow, which is from its client's address."""

    address: str
    endpoint: Endpoint | None

    @property
    def listener(self) -> Listener:
        """The one that its client writes to."""

    def open_spare(self) -> SocketType | None:
        """Another socket towards the endpoint, from the node's address; None if none can be had now."""

    def close_spare(self, spare: SocketType) -> None:
        """Close a socket by which nothing is sent."""

    def go_by(self, sock: SocketType, source: Source) -> SocketType | None:
        """Send by another of its sockets from now on; returns the one so far, whose answers are taken on."""


class SourceTrial:
    """Finds out with one flow. `decided` is whether that is done."""

    __slots__ = ("_as_node", "_flow", "_looks_again", "_pair", "_since", "_spare", "decided")

    def __init__(self, flow: Flow, pair: ReturnPair, now: float) -> None:
        self._flow = flow
        self._pair = pair
        self._looks_again = pair.lost_since is not None
        """Answers did not come back before; no other flow looks meanwhile."""
        self._since = now
        """When the client has first asked, or when the trial has begun, or ended."""
        self._as_node = False
        self._spare: SocketType | None = None
        self.decided = False
        pair.is_probed = pair.is_probed or self._looks_again

    @property
    def spare(self) -> SocketType | None:
        """The socket by which nothing is sent, but which may still be answered."""
        return self._spare

    def ask(self, now: float) -> None:
        """The client is about to ask again, without having been answered."""
        if self.decided:
            return
        pair, waited = self._pair, now - self._since
        if pair.answered:  # others were
            self._decide(Source.CLIENT)
        elif pair.lost_since is not None and not self._looks_again:
            if self._as_node or self._go_by_node(SourceFallback.REMEMBERED):
                self._decide(Source.NODE)
        elif self._as_node:
            if waited >= PATIENCE_SECONDS:
                self._flow.listener.pauses.in_vain(pair, now)
                self._switch()
                self._since = now
        elif waited >= AGAIN_SECONDS and self._may_try(now) and self._go_by_node(SourceFallback.NO_ANSWER):
            self._since = now

    def fails(self, number: int | None, now: float) -> bool:
        """Whether datagrams go from the node's address now, because the client's own has met an error.

        That the endpoint refuses by ICMP is an answer to the client's address.
        """
        if self.decided or self._as_node:
            return False
        if self._pair.answered or number == errno.ECONNREFUSED:
            self._answered_to(Source.CLIENT)
            return False
        self._since = now
        return number in _NOT_TO_BE_USED and self._go_by_node(SourceFallback.NOT_POSSIBLE)

    def answered(self) -> None:
        """An answer has come by the socket that datagrams go by."""
        if not self.decided:
            self._answered_to(Source.NODE if self._as_node else Source.CLIENT)

    def spare_answered(self) -> None:
        """One has come by the other socket."""
        if not self.decided:
            self._answered_to(Source.CLIENT if self._as_node else Source.NODE)

    def close(self) -> None:
        """The flow ends, or leaves its endpoint."""
        spare, self._spare = self._spare, None
        if spare is not None:
            self._flow.close_spare(spare)
        if self._looks_again and not self.decided:
            self.decided = True
            if self._pair.lost_since is not None:
                self._lose()

    def _answered_to(self, source: Source) -> None:
        if source is Source.CLIENT:
            self._pair.answer()
        elif not self._pair.answered and (self._pair.lost_since is None or self._looks_again):
            self._lose()
        self._decide(source)

    def _lose(self) -> None:
        flow = self._flow
        if flow.endpoint is not None:
            self._pair.lose(flow.listener.now(), flow.address, flow.endpoint, str(flow.listener.name))

    def _may_try(self, now: float) -> bool:
        """Whether a trial may begin: at any time where endpoints are known to answer, else with pauses."""
        listener = self._flow.listener
        return self._looks_again or listener.has_answered or listener.pauses.begin(self._pair, now)

    def _decide(self, source: Source) -> None:
        self.decided = True
        if self._as_node is not (source is Source.NODE):
            self._switch()

    def _go_by_node(self, reason: SourceFallback) -> bool:
        if not self._switch():
            return False
        sources = self._flow.listener.sources_of(self._flow.address)
        if sources is not None:
            sources.note_fallback(reason)
        return True

    def _switch(self) -> bool:
        """Send from the other address from now on; False if that cannot be."""
        spare = self._spare or self._flow.open_spare()
        if spare is None:
            return False
        self._as_node = not self._as_node
        self._spare = self._flow.go_by(spare, Source.NODE if self._as_node else Source.CLIENT)
        return True
