"""The sockets at portals that the control process holds, for a portal driver that binds them (``--portals local``)."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from msgspec import Struct

from userproxy.errors import ObjectError, PortUnavailableError
from userproxy.forwarding.admission import attach, detach, program_for
from userproxy.forwarding.portal_listeners import PortalSocket, is_of, is_same_service, open_portal, restrict
from userproxy.forwarding.udp.groups.group import DatagramGroup, open_apart
from userproxy.forwarding.udp.groups.spreading import member_of
from userproxy.forwarding.udp.sockets import DatagramSocket, stand_aside
from userproxy.model import Admission, IPFamily, ListenerName, PortalAddress, Protocol

log = structlog.get_logger()


class HeldPortal(Struct):
    """One portal: its sockets, and who is let in by them.

    `readers` are the places of the data processes that read them, one for each; None where all read the only one.
    """

    address: PortalAddress
    sockets: tuple[PortalSocket, ...]
    admission: Admission
    readers: tuple[int, ...] | None = None
    before: tuple[DatagramSocket, ...] = ()
    """Those of another process, in place of which there are others, to which nothing comes before :meth:`settle`."""

    @property
    def host(self) -> str:
        """The address that they are bound to."""
        return self.address.ip

    @property
    def members(self) -> Sequence[DatagramSocket]:
        """Those that clients are spread over, of a UDP portal."""
        return [each for each in self.sockets if isinstance(each, DatagramSocket)]

    @property
    def descriptors(self) -> list[int]:
        """Those of its sockets."""
        return [each.fileno() for each in self.sockets]

    def members_for(self, place: int) -> tuple[int, ...]:
        """The numbers of the sockets that are read at a place."""
        if self.readers is None:
            return (0,)
        return tuple(number for number, reader in enumerate(self.readers) if reader == place)

    def descriptors_for(self, place: int) -> list[int]:
        """Those of the sockets that are read at a place."""
        return [self.sockets[number].fileno() for number in self.members_for(place)]

    def place_of(self, client: tuple[str, int]) -> int:
        """The place of the data process that has a client's datagrams."""
        places = self.readers or (1,)
        return places[member_of(client, len(places))]

    def renew(self, count: int) -> None:
        """Have `count` other sockets, of a group of their own, to which nothing comes before :meth:`settle`.

        For a UDP portal of IPv4. Raises OSError, and ObjectError as :func:`program`.
        """
        instructions = program_for(self.admission)
        self.before, self.sockets = (
            tuple(self.members),
            tuple(open_apart(self.host, self.address.port, instructions, count)),
        )

    def settle(self, *, by_address: bool) -> Sequence[DatagramSocket]:  # noqa: ARG002 - it is by address and port
        """Have all datagrams come to its sockets after :meth:`renew`; returns those before. Raises OSError."""
        for each in self.members:
            each.appear()
        before, self.before = self.before, ()
        return before

    def close(self) -> None:
        """Close our copies of its sockets."""
        for each in (*self.sockets, *self.before):
            each.close()


class HeldPortals:
    """All of them.

    `take` accounts for a descriptor and raises OutOfDescriptorsError where there is none; `give` gives it
    back. `left` is called with the address of one that has been closed. `width` is how many sockets a UDP portal is
    to have that is opened now.
    """

    def __init__(
        self,
        take: Callable[[], None],
        give: Callable[[], None],
        left: Callable[[PortalAddress], None],
        width: Callable[[], int],
    ) -> None:
        self._take = take
        self._give = give
        self._left = left
        self._width = width
        self.further = 0
        """Sockets beyond one for each portal."""
        self._inherited: dict[PortalAddress, tuple[int, list[DatagramSocket]]] = {}
        self.portals: dict[PortalAddress, HeldPortal] = {}
        self._by_listener: dict[ListenerName, dict[PortalAddress, HeldPortal]] = {}
        self.unasked: dict[PortalAddress, None] = {}
        """Portals of another process that nobody has asked for since."""

    def serve(self, address: PortalAddress, admission: Admission) -> tuple[HeldPortal, bool]:
        """Listen at `address` and let in whom `admission` lets in; returns the portal, and whether it is another one.

        As :meth:`PortalListeners.serve`, which it does for the kernel's part. Raises PortUnavailableError and
        ObjectError.
        """
        portal = self.portals.get(address)
        self.unasked.pop(address, None)
        try:
            instructions = program_for(admission)
            if portal is not None and is_same_service(portal.admission, admission):
                restrict(portal.sockets, portal.admission, instructions)
                self._forget(portal)
                portal.admission = admission
                self._note(portal)
                return portal, False
        except ObjectError:
            self.leave(address)  # else those whom it had let in before would go on to be
            raise
        except OSError as error:  # of memory for programs a process has little (net.core.optmem_max)
            self.leave(address)
            raise PortUnavailableError(f"{address} cannot be restricted: {error.strerror}") from error
        self.leave(address)
        sockets = self._opened(address, admission, instructions)
        portal = HeldPortal(address, sockets, admission)
        self._note(portal)
        self.further += len(sockets) - 1
        return portal, True

    def of(self, name: ListenerName) -> list[HeldPortal]:
        """Those by which clients of a listener come."""
        return list(self._by_listener.get(name, {}).values())

    def adopt(self, address: PortalAddress, admission: Admission, sockets: Sequence[PortalSocket]) -> HeldPortal:
        """Hold the sockets of another process, which are accounted for already."""
        self.unasked[address] = None
        portal = HeldPortal(address, tuple(sockets), admission)
        self._note(portal)
        self.further += len(sockets) - 1
        return portal

    def inherit(self, address: PortalAddress, size: int, descriptor: int) -> None:
        """Have a socket of a UDP portal ready for when it is served: the next one of a group of `size`.

        Some may be missing: then others are opened, since nobody knows which numbers they have in the kernel.
        """
        self._inherited.setdefault(address, (size, []))[1].append(DatagramSocket(descriptor))

    def leave_unasked(self, family: IPFamily) -> None:
        """Listen no longer at what was adopted and nobody has asked for since."""
        for address in [each for each in self._inherited if is_of(each, family)]:
            _close(self._inherited.pop(address)[1])
        for address in [each for each in self.unasked if is_of(each, family)]:
            self.leave(address)

    def forsake(self) -> None:
        """Close our copies of all sockets, and tell nobody: they are another process's."""
        self._close_inherited()
        for portal in self.portals.values():
            portal.close()
        self.portals.clear()
        self._by_listener.clear()

    def leave(self, address: PortalAddress) -> None:
        """Listen at `address` no longer, if that was so."""
        portal = self.portals.pop(address, None)
        self.unasked.pop(address, None)
        if portal is not None:
            self._forget(portal)
            self._left(address)
            portal.close()
            self.further -= len(portal.sockets) - 1
            self._give_back(len(portal.sockets))

    def stand_aside(self, family: IPFamily) -> None:
        """As :meth:`PortalListeners.stand_aside`."""
        for address, portal in self.portals.items():
            if is_of(address, family):
                stand_aside(portal.sockets)

    def close(self, protocol: Protocol) -> None:
        """Listen at no portal of this protocol any longer."""
        if protocol is Protocol.UDP:
            self._close_inherited()
        for address in [address for address in self.portals if address.protocol is protocol]:
            self.leave(address)

    def _note(self, portal: HeldPortal) -> None:
        self.portals[portal.address] = portal
        for name in portal.admission.listeners:
            self._by_listener.setdefault(name, {})[portal.address] = portal

    def _forget(self, portal: HeldPortal) -> None:
        """Nobody's clients come by it any longer."""
        for name in portal.admission.listeners:
            its = self._by_listener[name]
            del its[portal.address]
            if not its:
                del self._by_listener[name]

    def _close_inherited(self) -> None:
        while self._inherited:
            _close(self._inherited.popitem()[1][1])

    def _opened(
        self, address: PortalAddress, admission: Admission, instructions: bytes | None
    ) -> tuple[PortalSocket, ...]:
        inherited = self._left_behind(address, instructions)
        is_read = address.protocol is Protocol.UDP and bool(admission.listeners)
        count = len(inherited) or (self._width() if is_read else 1)
        taken = 0
        try:
            for _ in range(count):
                self._take()
                taken += 1
            sockets = inherited or _open(address, instructions, count)
        except BaseException:
            self._give_back(taken)
            _close(inherited)
            raise
        self._give_back(taken - len(sockets))  # there is only one where the kernel can do no more
        return sockets

    def _left_behind(self, address: PortalAddress, instructions: bytes | None) -> tuple[DatagramSocket, ...]:
        """Those of :meth:`inherit`, which let in whom the program lets in; none where they cannot be used."""
        size, inherited = self._inherited.pop(address, (0, []))
        if len(inherited) == size:
            try:
                _let_in(inherited, instructions)
                return tuple(inherited)
            except OSError as error:  # a socket has little memory for programs, and its old one is still there
                log.debug("Sockets that were left are not used", portal=str(address), reason=error.strerror)
        _close(inherited)
        return ()

    def _give_back(self, descriptors: int) -> None:
        for _ in range(descriptors):
            self._give()


def _open(address: PortalAddress, instructions: bytes | None, count: int) -> tuple[PortalSocket, ...]:
    if count > 1:
        return DatagramGroup.open_at_portal(address.ip, address.port, instructions, count).members
    return (open_portal(address, instructions),)


def _let_in(sockets: Sequence[DatagramSocket], instructions: bytes | None) -> None:
    for each in sockets:
        if instructions is not None:
            attach(each, instructions)
        else:
            with suppress(FileNotFoundError):  # there was no program either
                detach(each)


def _close(sockets: Sequence[DatagramSocket]) -> None:
    for each in sockets:
        each.close()
