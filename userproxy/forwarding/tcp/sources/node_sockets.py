"""Sockets that connect to endpoints from the node's address, and their local ports."""

import errno
from collections.abc import Callable
from socket import SocketType
from typing import Final

import structlog

from userproxy.forwarding.listener_addresses import ListenerAddresses
from userproxy.forwarding.log_limit import LogLimit
from userproxy.forwarding.ports.ranges import ephemeral_ports
from userproxy.forwarding.tcp.sockets import UNDER_WAY, has_source_address, start_dial
from userproxy.forwarding.tcp.source_ports import SourcePorts
from userproxy.model import Endpoint, ListenerName

log = structlog.get_logger()

_PORTS_TRIED: Final = 4
"""Ports in TIME_WAIT that a dial tries before it lets connect(2) choose; mostly the first one can be had."""


_PORTS_SEARCHED: Final = 32
"""Ports that a dial tries where connect(2) has found none and we know of none: of those that others, such as another
data process, have left in TIME_WAIT we do not know. Each takes about 10 us, as long as all ports are in use."""


class NodeSockets:
    """Makes sockets. `listeners` are our own, which are not to be dialled; `now` is monotonic, in seconds."""

    def __init__(self, listeners: ListenerAddresses, ports: SourcePorts, now: Callable[[], float]) -> None:
        self._listeners = listeners
        self._ports = ports
        self._now = now
        self._shortage = LogLimit()
        self._searched = 0
        """How many ports were tried one after the other."""

    def connect(self, endpoint: Endpoint) -> tuple[SocketType | None, int]:
        """A socket that connects to `endpoint`, and errno as of `connect_ex`; ELOOP and no socket if that is ourselves.

        Raises OSError where no socket can be had.
        """
        if endpoint.port in self._listeners.ports and endpoint in self._listeners:
            return None, errno.ELOOP
        ports = self._ports
        # Empty sets are asked first: to find the hash of an endpoint costs more than to ask.
        if ports.crowded and endpoint in ports.crowded and (backend := self._reuse_port(endpoint)) is not None:
            return backend, errno.EINPROGRESS
        backend, error = start_dial(endpoint)
        if error != errno.EADDRNOTAVAIL:
            return backend, error
        try:
            again = self._reuse_port(endpoint)
            if again is None and has_source_address(endpoint):
                again = self._find_port(endpoint)
        except BaseException:
            backend.close()
            raise
        if again is None:
            return backend, error
        backend.close()
        return again, errno.EINPROGRESS

    def is_out_of_ports(self, endpoint: Endpoint, error: int) -> bool:
        """Whether a dial failed because all local ports are in use towards `endpoint`: no fault of the endpoint's.

        connect(2) says the same where an IPv6 endpoint cannot be reached from any address of this node.
        """
        return error == errno.EADDRNOTAVAIL and has_source_address(endpoint)

    def note_shortage(self, endpoint: Endpoint, name: ListenerName) -> None:
        """Log that there is no local port left towards `endpoint`: once a shortage, whatever its endpoints."""
        if self._shortage.begins(self._now()):
            log.warning(
                "Out of local ports towards an endpoint: clients go to others, and are reset where there are none;"
                " widen net.ipv4.ip_local_port_range, or set net.ipv4.tcp_tw_reuse to 1",
                service_port=str(name),
                endpoint=str(endpoint),
                ip_local_port_range=str(ephemeral_ports()),
            )

    def _reuse_port(self, endpoint: Endpoint) -> SocketType | None:
        """A socket that connects to `endpoint` from a port in TIME_WAIT, if one of the first few allows it."""
        for _ in range(_PORTS_TRIED):
            port = self._ports.take(endpoint)
            if port is None:
                break
            if (backend := _dial_from(endpoint, port)) is not None:
                return backend
        return None

    def _find_port(self, endpoint: Endpoint) -> SocketType | None:
        """The same from any port that allows it; the next time others are tried."""
        ports = ephemeral_ports()
        count = ports.last - ports.first + 1
        for _ in range(min(_PORTS_SEARCHED, count)):
            self._searched += 1
            if (backend := _dial_from(endpoint, ports.first + self._searched % count)) is not None:
                return backend
        return None


def _dial_from(endpoint: Endpoint, port: int) -> SocketType | None:
    backend, error = start_dial(endpoint, port)
    if error in UNDER_WAY:
        return backend
    backend.close()
    return None
