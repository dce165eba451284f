"""Sockets that connect to endpoints from their clients' addresses, and which source ports they have.

A port that the client has itself towards the endpoint would cost it that connection: our SYN has the endpoint answer to
the old one, and our socket resets it. So all ports are of OWN_PORTS, which clients do not use by default. Those of Pods
of this node are not those of clients from elsewhere, for whom another node may make connections likewise.

All clients take ports in turn: the one that is next was used longest ago. Where this client still has it towards this
endpoint it probably has those beside it, too, maybe by another process: one far from it is tried. One in TIME_WAIT can
be had at once, since it is bound by its number (see :mod:`~userproxy.forwarding.tcp.source_ports`). Where many are
behind one address elsewhere, and it has used up its own, the kernel may choose another.
"""

import errno
import os
import sys
from collections.abc import Callable
from socket import SocketType
from typing import Final

import structlog

from userproxy.forwarding.client_addresses import SourceChoice
from userproxy.forwarding.listener_addresses import ListenerAddresses
from userproxy.forwarding.log_limit import LogLimit
from userproxy.forwarding.tcp.sockets import UNDER_WAY, start_dial_from
from userproxy.model import OTHERS_PORTS, PODS_PORTS, Endpoint
from userproxy.model.reports import SourceFallback

log = structlog.get_logger()

_PORT_TAKEN: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})

_TRIES: Final = 8
"""Ports that are tried for a connection; each takes about 10 us."""

_STRIDE: Final = 1009
"""From a port that is taken to the next that is tried; a prime, so that all are different."""


class _Turns:
    """Ports of a range, each when all others have had their turn, as long as none is taken.

    They begin anywhere: processes that share a node, and one that takes over, are not to begin with the same.
    """

    def __init__(self, ports: tuple[int, int]) -> None:
        self._first, last = ports
        self._count = last - self._first + 1
        self._turn = int.from_bytes(os.urandom(4), sys.byteorder) % self._count

    def next(self, step: int = 1) -> int:
        """The port whose turn it is, or another one."""
        self._turn = (self._turn + step) % self._count
        return self._first + self._turn


class ClientSockets:
    """Makes sockets with clients' addresses. `listeners` are our own, which are not to be dialled.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, listeners: ListenerAddresses, clock: Callable[[], float]) -> None:
        self._listeners = listeners
        self._clock = clock
        self._of_pods, self._of_others = _Turns(PODS_PORTS), _Turns(OTHERS_PORTS)
        self._shortage = LogLimit()
        self._refusal = LogLimit()

    def connect(self, client: str, endpoint: Endpoint, choice: SourceChoice) -> SocketType | SourceFallback:
        """A socket on its way to `endpoint`, or why none can be had with the client's address.

        Raises OSError where no socket can be had at all.
        """
        if endpoint in self._listeners:
            return SourceFallback.NOT_POSSIBLE
        turns = self._of_pods if choice.own_ports_only else self._of_others
        step = 1
        for left in range(_TRIES - 1, -1, -1):
            port = turns.next(step) if left or choice.own_ports_only else 0
            backend, error = start_dial_from(client, endpoint, port)
            if error in UNDER_WAY:
                return backend
            backend.close()
            if error not in _PORT_TAKEN:
                return self._refused(client, endpoint, error)
            step = _STRIDE
        return self._crowded(client, endpoint)

    def _crowded(self, client: str, endpoint: Endpoint) -> SourceFallback:
        if self._shortage.begins(self._clock()):
            log.warning(
                "Out of ports of a client's address towards an endpoint, which sees the node's address instead",
                client=client,
                endpoint=str(endpoint),
            )
        return SourceFallback.NO_PORT

    def _refused(self, client: str, endpoint: Endpoint, error: int) -> SourceFallback:
        if self._refusal.begins(self._clock()):
            log.warning(
                "The kernel does not let us connect from a client's address: the endpoint sees the node's instead",
                client=client,
                endpoint=str(endpoint),
                reason=errno.errorcode.get(error, str(error)),
            )
        return SourceFallback.NOT_POSSIBLE
