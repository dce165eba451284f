"""What of a data plane has clients now, found in one look at all listeners: nobody is served while it lasts."""

from collections.abc import Collection
from typing import NamedTuple

from userproxy.forwarding.handover.parts import Parts
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.portal import PortlessTcpListener
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.model import PortalAddress

Whose = tuple[int, PortalAddress | None]
"""The number of a listener; or a portal that is one itself, which has none."""


class Survey(NamedTuple):
    """Connections that are not empty, all UDP listeners, and listeners where accepted clients wait for descriptors."""

    connections: Collection[Connections]
    udp: list[tuple[UdpListener, Whose]]
    waiting: list[tuple[TcpListener, Whose]]


def survey(parts: Parts) -> Survey:
    """As of now."""
    connections: dict[int, Connections] = {}
    udp: list[tuple[UdpListener, Whose]] = []
    waiting: list[tuple[TcpListener, Whose]] = []
    for listener in parts.listeners.values():
        if isinstance(listener, TcpListener | PortlessTcpListener):
            its = listener.connections
            if its.members:
                connections[id(its)] = its
            if isinstance(listener, TcpListener) and listener.held:
                waiting.append((listener, (listener.statistics.number, None)))
        elif isinstance(listener, UdpListener):
            udp.append((listener, (listener.statistics.number, None)))
    for each in parts.tcp.without_listener:
        if isinstance(each, Connections) and each.members:
            connections[id(each)] = each
    for address, _, _, portal in parts.portals.open_portals():
        if isinstance(portal, UdpListener):
            udp.append((portal, (0, address)))
        elif isinstance(portal, TcpListener) and portal.held:
            waiting.append((portal, (0, address)))
    return Survey(connections.values(), udp, waiting)
