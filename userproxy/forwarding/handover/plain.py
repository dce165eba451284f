"""Listeners alone, for a successor whose release describes connections otherwise: these stay where they are."""

from collections.abc import Iterator

from userproxy.forwarding.handover.parts import AnyListener, Parts
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.portal import PortlessTcpListener
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.model import ListenerName, Verdict


def listening(parts: Parts) -> Iterator[tuple[ListenerName, str, int]]:
    """Listeners with local ports that take clients: name, the address that they were opened at, and the descriptor.

    One that has several sockets comes several times, in the order of their numbers, and then what keeps others from
    them.
    """
    for name, listener in parts.listeners.items():
        if isinstance(listener, TcpListener) and listener.verdict is Verdict.SERVE:
            yield name, listener.socket.getsockname()[0], listener.socket.fileno()
        elif isinstance(listener, UdpListener) and listener.socket.holder is None:
            for descriptor in (listener.socket.fileno(), *(listener.further.descriptors if listener.further else ())):
                yield name, listener.host, descriptor


def leave(parts: Parts) -> None:
    """Take no client from now on: another process does, by copies of the sockets. Connections and flows go on."""
    for listener in parts.listeners.values():
        _leave(parts, listener)


def _leave(parts: Parts, listener: AnyListener) -> None:
    if isinstance(listener, TcpListener):
        parts.tcp.poller.forget(listener.socket)
        listener.forsake()
        listener.connections.left()
    elif isinstance(listener, PortlessTcpListener):
        listener.connections.left()
    elif isinstance(listener, UdpListener):
        listener.leave_clients()
