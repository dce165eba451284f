"""Whose address one dial comes from, and what is learned of that."""

import errno
from socket import SocketType
from typing import TYPE_CHECKING

from userproxy.forwarding.client_addresses import SourceChoice, Sources
from userproxy.forwarding.return_pairs import ReturnPair
from userproxy.forwarding.tcp.sockets import is_answer
from userproxy.model import Endpoint, ListenerName
from userproxy.model.reports import SourceFallback

if TYPE_CHECKING:
    from userproxy.forwarding.tcp.dialer import Dialer


class DialSource:
    """For a client some of whose endpoints are to see its address. `address` is the client's.

    ``introduced`` is whether it comes from a PROXY header.
    ``keeps`` is whether the endpoint that was last decided about is to see it. While ``finds_out`` it is not known yet
    whether answers to it come back, and other clients depend on what comes of this dial.
    """

    __slots__ = (
        "_address",
        "_choice",
        "_dialer",
        "_has_waited",
        "_kept",
        "_name",
        "_probed",
        "_sources",
        "introduced",
    )

    def __init__(
        self, dialer: "Dialer", sources: Sources, name: ListenerName, address: str, *, introduced: bool = False
    ) -> None:
        self._dialer = dialer
        self._sources = sources
        self._name = name
        self._address = address
        self.introduced = introduced
        self._choice: SourceChoice | None = None
        self._kept: SourceChoice | None = None
        self._probed: ReturnPair | None = None
        self._has_waited = False

    @property
    def keeps(self) -> bool:
        return self._choice is not None

    @property
    def finds_out(self) -> bool:
        return self._probed is not None

    def decide(self, endpoint: Endpoint) -> ReturnPair | None:
        """Decide whose address an endpoint is to see: the client's, unless answers to it have not come back before.

        A pair is returned if another client is finding out about it: wait for that, and decide again. That happens
        once.
        """
        self._choice = None
        choice = self._sources.choose(self._address, endpoint, introduced=self.introduced)
        if not choice.keeps:
            return None
        pair = self._sources.pairs.of(choice.interface, choice.node)
        if pair.answered:
            self._choice = choice
        elif pair.lost_since is not None:
            self._sources.fallbacks[SourceFallback.REMEMBERED] += 1
            if pair.is_due(self._dialer.loop.time(), self._address):
                self._dialer.looks.begin(pair, self._address, endpoint, choice, self._name)
        elif pair.is_open_to(self._address, self._dialer.loop.time()):
            pair.is_probed = True
            self._choice, self._kept, self._probed = choice, choice, pair
        elif pair.is_probed and not self._has_waited:
            self._has_waited = True
            return pair
        else:
            self._sources.fallbacks[SourceFallback.NOT_YET_KNOWN] += 1
        return None

    def connect(self, endpoint: Endpoint) -> tuple[SocketType | None, int]:
        """As :meth:`NodeSockets.connect`, as was decided; from the node's address where the client's cannot be had."""
        if self._choice is not None:
            found = self._dialer.client_sockets.connect(self._address, endpoint, self._choice)
            if isinstance(found, SocketType):
                return found, errno.EINPROGRESS
            self.fall_back(found)
            self.end()
        return self._dialer.node_sockets.connect(endpoint)

    def fall_back(self, reason: SourceFallback) -> None:
        """Have the endpoint see the node's address after all."""
        self._sources.fallbacks[reason] += 1
        self._choice = None

    def learn(self, endpoint: Endpoint, error: int) -> bool:
        """An errno, 0 for none, is what has come of the dial that was to find out. False if that tells nothing."""
        pair = self._probed
        if pair is None or not is_answer(error):
            return False
        if self._choice is not None:
            pair.answer()
        elif self._kept is not None:
            # One packet may have been lost, or the first one of all have waited for a neighbour's answer to ARP.
            self._dialer.looks.begin(pair, self._address, endpoint, self._kept, self._name)
        self._probed = None
        return True

    def end(self) -> None:
        """Leave it to the next client to find out, if this one was to."""
        pair, self._probed = self._probed, None
        if pair is not None:
            pair.give_up(self._address, self._dialer.loop.time())
