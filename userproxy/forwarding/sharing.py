"""The forwarder of a data process: its listeners are copies of sockets that the control process has opened."""

import asyncio
import os
from collections.abc import Collection, Iterator
from random import Random

from userproxy.forwarding.accept_turns import AcceptTurns
from userproxy.forwarding.forwarder import Forwarder, ForwardingOptions
from userproxy.forwarding.handover.parts import AnyListener
from userproxy.forwarding.portal_listeners import PortalListeners, SharedPortalListeners
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.shared import SharedTcpListener
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.shared import SharedUdpListener
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Admission, ListenerName, PortalAddress, Protocol, Verdict


class SharingForwarder(Forwarder):
    """Listeners whose sockets other processes may serve, too. To be used on the loop's thread only.

    Ids of connections begin after `last_id`. `turns` says who accepts next.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: ForwardingOptions,
        random: Random,
        turns: AcceptTurns,
        last_id: int = 0,
    ) -> None:
        self._turns = turns
        super().__init__(loop, options, random)
        self._recorder.last_id = last_id
        self._elsewhere: dict[ListenerName, int] = {}
        """The local ports of listeners that other processes serve alone."""

    def adopt(self, name: ListenerName, number: int, descriptor: int | None) -> None:
        """Serve a listener from a copy of its socket, or from portals alone where it has no socket of its own.

        Clients wait for its first snapshot. `number` is that of its figures. Takes over the descriptor. Nothing happens
        where it is served already. Raises OSError where the kernel can watch no more; then the descriptor is closed.
        """
        self.forget_elsewhere(name)
        if self._has(name, descriptor):
            self._listeners[name].statistics.number = number
            if descriptor is not None:
                os.close(descriptor)
            return
        if name in self._listeners:
            self.leave(name)
        if descriptor is None:
            opened: AnyListener = self._portals.listener(name, self._balancer())
        elif name.service_port.protocol is Protocol.UDP:
            opened = self._adopt_udp(name, DatagramSocket(descriptor))
        else:
            opened = self._adopt_tcp(name, ListeningSocket(descriptor))
        opened.statistics.number = number
        self._listeners[name] = opened

    @property
    def open_listeners(self) -> Collection[ListenerName]:
        """The listeners that are served here."""
        return self._listeners.keys()

    def shared_sockets(self) -> Iterator[tuple[ListenerName, str, int]]:
        """The listeners that take clients at a socket of their own: the address that it is bound to, the descriptor."""
        for name, listener in self._listeners.items():
            snapshot = self._snapshots.get(name)
            is_open = snapshot is not None and snapshot.verdict is Verdict.SERVE
            if is_open and isinstance(listener, SharedTcpListener | SharedUdpListener):
                yield name, str(listener.socket.getsockname()[0]), listener.socket.fileno()

    def renew(self, name: ListenerName, descriptor: int) -> None:
        """Go on with another socket for a UDP listener. Takes over its descriptor."""
        listener = self._listeners.get(name)
        if isinstance(listener, SharedUdpListener):
            listener.renew(descriptor)
        else:
            os.close(descriptor)

    def leave(self, name: ListenerName) -> None:
        """Serve a listener no longer, because another process does so alone. Connections go on, UDP flows end."""
        listener = self._listeners.get(name)
        if isinstance(listener, SharedTcpListener):
            listener.leave()
        if listener is not None:
            self.close(name)

    def note_elsewhere(self, name: ListenerName, host: str, port: int) -> None:
        """Dial no endpoint that is a listener which another process serves alone."""
        self.forget_elsewhere(name)
        self._elsewhere[name] = port
        plane = self._tcp if name.service_port.protocol is Protocol.TCP else self._udp
        plane.listener_addresses.add(name.family, host, port)

    def forget_elsewhere(self, name: ListenerName) -> None:
        """Forget what was noted of a listener, if anything was."""
        port = self._elsewhere.pop(name, None)
        if port is not None:
            plane = self._tcp if name.service_port.protocol is Protocol.TCP else self._udp
            plane.listener_addresses.discard(name.family, port)

    def adopt_portal(self, address: PortalAddress, admission: Admission, descriptor: int) -> None:
        """Serve a portal from a copy of its socket. Takes over the descriptor. Raises PortUnavailableError."""
        kind = ListeningSocket if address.protocol is Protocol.TCP else DatagramSocket
        self._shared_portals.share(address, admission, kind(descriptor))

    def follow_portal(self, address: PortalAddress, admission: Admission) -> None:
        """Treat new clients of a portal by another admission of the same service port."""
        self._shared_portals.follow(address, admission)

    def look(self) -> None:
        """Look at all sockets: a process has ended that may have been told of clients."""
        for listener in self._listeners.values():
            if isinstance(listener, SharedTcpListener):
                listener.look()
        self._shared_portals.look()

    def _has(self, name: ListenerName, descriptor: int | None) -> bool:
        """Whether a listener is served already from the socket that a descriptor is for."""
        listener = self._listeners.get(name)
        if isinstance(listener, SharedTcpListener | SharedUdpListener) and descriptor is not None:
            return os.path.sameopenfile(listener.socket.fileno(), descriptor)
        return listener is not None and descriptor is None

    def _portal_listeners(self) -> PortalListeners:
        take, give = self._budget.count_port, self.give_port
        self._shared_portals = SharedPortalListeners(self._tcp, self._udp, take, give, self._turns)
        return self._shared_portals

    def _adopt_tcp(self, name: ListenerName, sock: ListeningSocket) -> AnyListener:
        self._budget.count_port()
        connections = Connections(self._tcp, name, self._balancer())
        portals_only = self._options.portals_only
        try:
            return SharedTcpListener(self._tcp, sock, connections, self._turns, portals_only=portals_only)
        except OSError:
            sock.close()
            self.give_port()
            raise

    def _adopt_udp(self, name: ListenerName, sock: DatagramSocket) -> AnyListener:
        self._budget.count_port()
        portal = None if self._options.portals_only else sock.getsockname()
        return SharedUdpListener(self._udp, name, sock, self._balancer(), UdpStatistics(), portal)
