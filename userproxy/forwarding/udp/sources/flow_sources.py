"""Whose addresses the endpoints of a UDP listener are to see: by what its Service asks for, and what was learned."""

import errno
from socket import SocketType
from typing import Final

from userproxy.forwarding.client_addresses import ClientAddresses, SourceChoice, Sources
from userproxy.forwarding.return_pairs import ReturnPair
from userproxy.forwarding.udp.sockets import connect_from
from userproxy.model import Endpoint, Protocol, Snapshot
from userproxy.model.reports import SourceFallback

_NO_PORT: Final = frozenset({errno.EADDRINUSE, errno.EAGAIN})


class FlowSources:
    """For the clients of one listener, by its latest snapshot."""

    __slots__ = ("_sources", "_tcp_pairs")

    def __init__(self, addresses: ClientAddresses, sources: Sources, snapshot: Snapshot) -> None:
        self._sources = sources
        name = snapshot.listener
        self._tcp_pairs = addresses.pairs[Protocol.TCP, name.family].within(name.service_port.namespace)

    @classmethod
    def of(cls, addresses: ClientAddresses, snapshot: Snapshot) -> "FlowSources | None":
        """None where all flows of a listener come from the node's address."""
        sources = addresses.sources(snapshot)
        return None if sources is None else cls(addresses, sources, snapshot)

    def connect(self, client: str, endpoint: Endpoint, now: float) -> tuple[SocketType, ReturnPair] | None:
        """A socket with the client's address, and what is known of answers to that; None for the node's address."""
        choice = self._sources.choose(client, endpoint)
        pair = self._pair(choice, now) if choice.keeps else None
        if pair is None:
            return None
        try:
            return connect_from(client, endpoint, is_pod_here=choice.own_ports_only), pair
        except OSError as error:
            taken = error.errno in _NO_PORT
            self.note_fallback(SourceFallback.NO_PORT if taken else SourceFallback.NOT_POSSIBLE)
            return None

    def pair(self, client: str, endpoint: Endpoint, now: float) -> ReturnPair | None:
        """What is known of answers to a client's address; None where it is not to be kept."""
        choice = self._sources.choose(client, endpoint)
        return self._pair(choice, now) if choice.keeps else None

    def note_fallback(self, reason: SourceFallback) -> None:
        """Count a flow that has the node's address although the client's is to be kept."""
        self._sources.fallbacks[reason] += 1

    def _pair(self, choice: SourceChoice, now: float) -> ReturnPair | None:
        """What is known; None where answers did not come back and it is not time to try again.

        What connections have shown counts for datagrams, too, though not for longer than until the next look: where
        there are no connections any more nobody else looks. Where answers do come back, silence is the endpoint's
        doing, or that of a filter that is not to be gone around.
        """
        pair = self._sources.pairs.of(choice.interface, choice.node)
        if not pair.answered and pair.lost_since is None:
            of_tcp = self._tcp_pairs.known(choice.interface, choice.node)
            if of_tcp is not None and of_tcp.answered:
                pair.answer()
            elif of_tcp is not None and of_tcp.lost_since is not None and not of_tcp.is_due(now):
                self.note_fallback(SourceFallback.REMEMBERED)
                return None
        if pair.lost_since is None or pair.is_due(now):
            return pair
        self.note_fallback(SourceFallback.REMEMBERED)
        return None
