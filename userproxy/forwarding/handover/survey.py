"""What of a data plane has clients now, found in one look at listeners: nobody is served while it lasts."""

from collections.abc import Collection, Iterable
from typing import NamedTuple, TypeGuard

from userproxy.forwarding.handover.parts import AnyListener, Parts
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.portal import PortlessTcpListener
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.model import PortalAddress

Whose = tuple[int, PortalAddress | None]
"""The number of a listener; or a portal that is one itself, which has none."""


class Survey(NamedTuple):
    """Connections that are not empty, UDP listeners, and listeners where accepted clients wait for descriptors."""

    connections: Collection[Connections]
    udp: list[tuple[UdpListener, Whose]]
    waiting: list[tuple[TcpListener, Whose]]


def survey(parts: Parts, listeners: Iterable[AnyListener]) -> Survey:
    """As of now, of these listeners, of portals, and of connections without a listener.

    Accepted clients who wait for descriptors are looked for at all listeners, if there are any.
    """
    connections: dict[int, Connections] = {}
    udp: list[tuple[UdpListener, Whose]] = []
    for listener in listeners:
        if isinstance(listener, TcpListener | PortlessTcpListener):
            its = listener.connections
            if its.members:
                connections[id(its)] = its
        elif isinstance(listener, UdpListener):
            udp.append((listener, (listener.statistics.number, None)))
    for each in parts.tcp.without_listener:
        if isinstance(each, Connections) and each.members:
            connections[id(each)] = each
    portals = list(parts.portals.open_portals())
    udp += [(portal, (0, address)) for address, _, _, portal in portals if isinstance(portal, UdpListener)]
    waiting: list[tuple[TcpListener, Whose]] = []
    if parts.tcp.shares.held:
        waiting = [
            *((each, (each.statistics.number, None)) for each in parts.listeners.values() if _keeps_waiting(each)),
            *((portal, (0, address)) for address, _, _, portal in portals if _keeps_waiting(portal)),
        ]
    return Survey(connections.values(), udp, waiting)


def _keeps_waiting(listener: object) -> TypeGuard[TcpListener]:
    return isinstance(listener, TcpListener) and bool(listener.held)
