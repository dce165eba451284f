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


class NodeSockets:
    """Makes sockets. `listeners` are our own, which are not to be dialled; `now` is monotonic, in seconds."""

    def __init__(self, listeners: ListenerAddresses, ports: SourcePorts, now: Callable[[], float]) -> None:
        self._listeners = listeners
        self._ports = ports
        self._now = now
        self._shortage = LogLimit()

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
            backend, error = start_dial(endpoint, port)
            if error in UNDER_WAY:
                return backend
            backend.close()
        return None
