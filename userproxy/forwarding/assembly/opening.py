"""Listeners with local ports of their own: the ports, and the sockets that another process has opened."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Final, TypeVar

from userproxy.errors import PortUnavailableError
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.assembly.planes import Planes
from userproxy.forwarding.handover.parts import AnyListener
from userproxy.forwarding.ports.listeners import ListenerPorts
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.groups.further import FurtherSockets
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import IPFamily, ListenerName, Protocol, Verdict
from userproxy.routing.balancer import Balancer

Bound = TypeVar("Bound")


class Opening:
    """Opens listeners as `options` say, each with a new one of `balancer`."""

    def __init__(
        self, planes: Planes, options: ForwardingOptions, random: Random, balancer: Callable[[], Balancer]
    ) -> None:
        self._planes = planes
        self._options = options
        self._random = random
        self._balancer = balancer
        self.ports = ListenerPorts(options.port_range, options.kept_ports)
        self._inherited: dict[ListenerName, tuple[str, list[int]]] = {}
        self._listen: Final[Mapping[Protocol, Callable[[ListenerName, int | None, Verdict], AnyListener]]] = {
            Protocol.TCP: self._listen_tcp,
            Protocol.UDP: self._listen_udp,
        }

    def forwards(self, protocol: Protocol) -> bool:
        """Whether there are listeners of a protocol."""
        return protocol in self._listen

    def open(self, name: ListenerName, preferred_port: int | None, verdict: Verdict) -> AnyListener:
        """A listener at `preferred_port` if that is free. Raises PortUnavailableError."""
        return self._listen[name.service_port.protocol](name, preferred_port, verdict)

    def inherit(self, name: ListenerName, host: str, descriptor: int) -> None:
        """Have :meth:`open` use the socket of another process for a listener; several, in the order of these calls."""
        self._inherited.setdefault(name, (host, []))[1].append(descriptor)

    def close_inherited(self, family: IPFamily) -> None:
        """Close the sockets of another process that no listener has been opened with."""
        for name in [each for each in self._inherited if each.family is family]:
            for descriptor in self._inherited.pop(name)[1]:
                os.close(descriptor)

    def _listen_tcp(self, name: ListenerName, preferred_port: int | None, verdict: Verdict) -> AnyListener:
        inherited = self._inherited.pop(name, None)
        if inherited is not None:
            sock = ListeningSocket(inherited[1][0])
            sock.set_verdict(verdict)
        else:
            sock = self._bind(partial(ListeningSocket.open, verdict=verdict), name.family, preferred_port)
        tcp, portals_only = self._planes.tcp, self._options.portals_only
        connections = Connections(tcp, name, self._balancer())
        connections.balancer.watch(connections.statistics.endpoints)  # before it has endpoints, hence a method to renew
        try:
            return TcpListener(tcp, sock, connections, portals_only=portals_only, verdict=verdict)
        except OSError as error:
            sock.close()
            raise PortUnavailableError(f"its listener cannot be watched: {error.strerror}") from error

    def _listen_udp(self, name: ListenerName, preferred_port: int | None, _verdict: Verdict) -> AnyListener:
        inherited = self._inherited.pop(name, None)
        if inherited is not None:
            group = DatagramGroup.adopt(inherited[1], inherited[0])
        else:
            group = self._bind(DatagramGroup.open, name.family, preferred_port)
        udp, sock = self._planes.udp, group.members[0]
        portal = None if self._options.portals_only else sock.getsockname()
        listener = UdpListener(udp, name, sock, self._balancer(), UdpStatistics(), portal)
        listener.further = FurtherSockets.of(group, udp.poller, listener)
        return listener

    def _bind(self, bind: Callable[[str, int], Bound], family: IPFamily, preferred_port: int | None) -> Bound:
        host = self._options.bind_addresses.get(family)
        if host is None:
            raise PortUnavailableError(f"there is no address to bind {family} listeners to")
        return self.ports.bind(bind, host, preferred_port, self._random)
