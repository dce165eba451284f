"""Groups of UDP sockets that another userproxy has had, with fewer sockets than there are data processes now."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog
from msgspec import Struct

from userproxy.addresses import family_of, is_ipv6
from userproxy.errors import ObjectError
from userproxy.forwarding.udp.datagrams import Inbox
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.groups.waiting import waiting
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.model import IPFamily, ListenerName, PortalAddress
from userproxy.processes.control.held_portals import HeldPortal
from userproxy.processes.messages import Deliver

log = structlog.get_logger()

MOST: Final = 128
"""So many grow in one take-over, the first ones: nobody is served meanwhile, and each takes some 30 us."""

_AT_ONCE: Final = 256
"""Datagrams in one message."""


class Group(Protocol):
    """Sockets of one port."""

    @property
    def host(self) -> str:
        """The address that they are bound to."""

    @property
    def members(self) -> Sequence[DatagramSocket]:
        """Those that clients are spread over once it is settled."""

    def settle(self, *, by_address: bool) -> Sequence[DatagramSocket]:
        """As :meth:`DatagramGroup.settle`. What is none of its members any more is not needed."""


class Grown(Struct, frozen=True):
    """A group with more sockets than before. `place_of` says by which data process a client is served from now on."""

    listener: ListenerName
    portal: PortalAddress | None
    group: Group
    by_address: bool
    place_of: Callable[[tuple[str, int]], int]


class Growing:
    """Lets groups grow to `sockets` each, which may have so many descriptors of ours beyond one each, `room`."""

    def __init__(self, sockets: int, room: int) -> None:
        self._sockets = sockets
        self._room = room
        self._count = 0
        self._grown: list[Grown] = []
        self._inboxes: dict[IPFamily, Inbox] = {}

    def grow(self, group: DatagramGroup) -> bool:
        """Have a group grow, which another process still reads; False where it stays as it is."""
        before = len(group.descriptors)
        more = self._sockets - len(group.members) + (group.guard is None)
        if len(group.members) >= self._sockets or self._count == MOST or self._room < before - 1 + more:
            self._room -= before - 1
            return False
        try:
            group.grow(self._sockets)
        except OSError as error:
            log.debug("A UDP listener has as many sockets as its predecessor", port=group.port, reason=error.strerror)
        self._room -= len(group.descriptors) - 1
        if len(group.descriptors) == before:
            return False
        self._count += 1
        family = family_of(group.host)
        if family not in self._inboxes:
            self._inboxes[family] = Inbox(family)
        return True

    def grow_portal(self, portal: HeldPortal) -> None:
        """Have a portal of IPv4 have as many sockets, if there is room: others, of which nobody knows yet."""
        more = self._sockets - len(portal.sockets)
        can_grow = portal.admission.listeners and portal.members and not is_ipv6(portal.host)
        if not can_grow or more <= 0 or self._count == MOST or self._room < self._sockets - 1:
            self._room -= len(portal.sockets) - 1
            return
        try:
            portal.renew(self._sockets)
        except (OSError, ObjectError) as error:
            log.debug("A UDP portal has as many sockets as before", portal=str(portal.address), reason=str(error))
            self._room -= len(portal.sockets) - 1
            return
        self._room -= self._sockets - 1
        self._count += 1
        self._inboxes.setdefault(IPFamily.IPV4, Inbox(IPFamily.IPV4))
        self.note(
            Grown(portal.admission.listeners[0], portal.address, portal, by_address=False, place_of=portal.place_of)
        )

    def note(self, grown: Grown) -> None:
        """Settle this group with the others."""
        self._grown.append(grown)

    def settle(self) -> list[tuple[int, Deliver]]:
        """Spread clients over all sockets: the process that has read them does so no longer.

        Returns what waits in them, for the data processes whose clients have sent it, by their places.
        """
        found: list[tuple[int, Deliver]] = []
        grown, self._grown = self._grown, []
        for each in grown:
            try:
                before = each.group.settle(by_address=each.by_address)
            except OSError as error:
                reason = error.strerror
                log.error("Clients of a UDP listener are not spread", service_port=str(each.listener), reason=reason)
                continue
            by_place: dict[int, list[tuple[bytes, bytes]]] = {}
            for client, addresses, payload in waiting(before, self._inboxes[family_of(each.group.host)]):
                by_place.setdefault(each.place_of(client), []).append((addresses, payload))
            found += ((place, message) for place, some in by_place.items() for message in _messages(each, some))
            for sock in before:
                if sock not in each.group.members:
                    sock.close()
        return found


def _messages(grown: Grown, datagrams: list[tuple[bytes, bytes]]) -> Iterable[Deliver]:
    for start in range(0, len(datagrams), _AT_ONCE):
        yield Deliver(grown.listener, grown.portal, tuple(datagrams[start : start + _AT_ONCE]))
