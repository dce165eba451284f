"""The sockets of listeners that the control process opens, and how many descriptors groups of UDP sockets may have."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final

import structlog

from userproxy.errors import PortUnavailableError
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.ports.listeners import ListenerPorts
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.model import IPFamily, ListenerName, Protocol, Verdict
from userproxy.processes.control.held import HeldListener

log = structlog.get_logger()

_SHARE_FOR_GROUPS: Final = 10
"""Of ten descriptors one may be for further sockets of UDP listeners."""


class ListenerSockets:
    """Opens and closes them for `processes` data processes. `at_portals` is how many further sockets portals have."""

    def __init__(
        self,
        options: ForwardingOptions,
        budget: DescriptorBudget,
        random: Random,
        processes: int,
        at_portals: Callable[[], int],
    ) -> None:
        self._options = options
        self._budget = budget
        self._random = random
        self._processes = processes
        self._at_portals = at_portals
        self.ports = ListenerPorts(options.port_range, options.kept_ports)
        self._inherited: dict[ListenerName, tuple[str, list[int]]] = {}
        self._in_groups = 0
        """Descriptors of UDP listeners that they have beyond the first."""

    @property
    def room_in_groups(self) -> int:
        """How many descriptors groups may have besides those that they have."""
        return self._options.descriptor_limit // _SHARE_FOR_GROUPS - self._in_groups - self._at_portals()

    def width(self) -> int:
        """How many sockets a UDP portal is to have that is opened now: one for each process, if there is room."""
        return self._processes if self._processes - 1 <= self.room_in_groups else 1

    def inherit(self, name: ListenerName, host: str, descriptor: int) -> None:
        """As :meth:`Forwarder.inherit`."""
        self._inherited.setdefault(name, (host, []))[1].append(descriptor)

    def close_inherited(self, family: IPFamily) -> None:
        """Close what nobody has asked for."""
        for name in [each for each in self._inherited if each.family is family]:
            for descriptor in self._inherited.pop(name)[1]:
                os.close(descriptor)

    def open(
        self, name: ListenerName, preferred_port: int | None, verdict: Verdict
    ) -> ListeningSocket | DatagramGroup | None:
        """Those of a listener, as :meth:`Forwarder.open`; None where clients come by portals that are bound."""
        if self._options.bind_portals:
            return None
        host = self._options.bind_addresses.get(name.family)
        if host is None:
            raise PortUnavailableError(f"there is no address to bind {name.family} listeners to")
        self._budget.hold_port()
        try:
            sock = self._opened(name, host, preferred_port, verdict)
        except BaseException:
            self._budget.give_port()
            raise
        if isinstance(sock, DatagramGroup):
            self._widen(sock)
        return sock

    def adopted(self, held: HeldListener) -> None:
        """Account for those of a listener of another userproxy."""
        descriptors = len(held.descriptors)
        self._in_groups += max(0, descriptors - 1)
        for _ in range(descriptors):
            self._budget.adopt_port()

    def close(self, held: HeldListener) -> None:
        """Close those of a listener."""
        descriptors = len(held.descriptors)
        for _ in range(descriptors):
            self._budget.give_port()
        self._in_groups -= max(0, descriptors - 1)
        held.close()

    def _opened(
        self, name: ListenerName, host: str, preferred_port: int | None, verdict: Verdict
    ) -> ListeningSocket | DatagramGroup:
        if (inherited := self._inherited.pop(name, None)) is not None:
            return _inherited_socket(name, *inherited, verdict)
        if name.service_port.protocol is Protocol.UDP:
            return self.ports.bind(DatagramGroup.open, host, preferred_port, self._random)
        opening = partial(ListeningSocket.open, verdict=verdict)
        return self.ports.bind(opening, host, preferred_port, self._random)

    def _widen(self, group: DatagramGroup) -> None:
        """Have a socket for each process, if there are descriptors for that; another process's stay as they are."""
        if len(group.descriptors) == 1 and self._processes > 1:
            # One more, for the guard. What is missing for groups is not to be missing for listeners.
            if self._processes > self.room_in_groups:
                return
            try:
                group.widen(self._processes)
            except OSError as error:
                log.warning("A UDP listener is one data process's", port=group.port, reason=error.strerror)
        for _ in group.descriptors[1:]:
            self._budget.adopt_port()
        self._in_groups += len(group.descriptors) - 1


def _inherited_socket(
    name: ListenerName, host: str, descriptors: Sequence[int], verdict: Verdict
) -> ListeningSocket | DatagramGroup:
    """The sockets of another process, which takes clients there. Raises PortUnavailableError."""
    if name.service_port.protocol is Protocol.UDP:
        return DatagramGroup.adopt(descriptors, host)
    sock = ListeningSocket(descriptors[0])
    try:
        sock.set_verdict(verdict)
    except OSError as error:
        sock.close()
        raise PortUnavailableError(f"{name} cannot go on with the socket that was left: {error.strerror}") from error
    return sock
