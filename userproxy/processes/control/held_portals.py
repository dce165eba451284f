"""The sockets at portals that the control process holds, for a portal driver that binds them (``--portals local``)."""

from collections.abc import Callable

from msgspec import Struct

from userproxy.addresses import family_of
from userproxy.errors import ObjectError, PortUnavailableError
from userproxy.forwarding.admission import admits_everybody, program
from userproxy.forwarding.portal_listeners import PortalSocket, is_same_service, open_portal, restrict
from userproxy.model import Admission, IPFamily, PortalAddress, Protocol


class HeldPortal(Struct):
    """One portal: its socket, and who is let in by it."""

    address: PortalAddress
    sock: PortalSocket
    admission: Admission


class HeldPortals:
    """All of them.

    `take` accounts for the descriptor of each and raises OutOfDescriptorsError where there is none; `give` gives it
    back. `left` is called with the address of one that has been closed.
    """

    def __init__(
        self, take: Callable[[], None], give: Callable[[], None], left: Callable[[PortalAddress], None]
    ) -> None:
        self._take = take
        self._give = give
        self._left = left
        self.portals: dict[PortalAddress, HeldPortal] = {}
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
            instructions = None if admits_everybody(admission) else program(admission)
            if portal is not None and is_same_service(portal.admission, admission):
                restrict(portal.sock, portal.admission, instructions)
                portal.admission = admission
                return portal, False
        except ObjectError:
            self.leave(address)  # else those whom it had let in before would go on to be
            raise
        except OSError as error:  # of memory for programs a process has little (net.core.optmem_max)
            self.leave(address)
            raise PortUnavailableError(f"{address} cannot be restricted: {error.strerror}") from error
        self.leave(address)
        self._take()
        try:
            sock = open_portal(address, instructions)
        except BaseException:
            self._give()
            raise
        portal = self.portals[address] = HeldPortal(address, sock, admission)
        return portal, True

    def adopt(self, address: PortalAddress, admission: Admission, sock: PortalSocket) -> HeldPortal:
        """Hold the socket of another process, which is accounted for already."""
        self.unasked[address] = None
        portal = self.portals[address] = HeldPortal(address, sock, admission)
        return portal

    def leave_unasked(self, family: IPFamily) -> None:
        """Listen no longer at what was adopted and nobody has asked for since."""
        for address in [each for each in self.unasked if family_of(each.ip) is family]:
            self.leave(address)

    def forsake(self) -> None:
        """Close our copies of all sockets, and tell nobody: they are another process's."""
        for portal in self.portals.values():
            portal.sock.close()
        self.portals.clear()

    def leave(self, address: PortalAddress) -> None:
        """Listen at `address` no longer, if that was so."""
        portal = self.portals.pop(address, None)
        self.unasked.pop(address, None)
        if portal is not None:
            self._left(address)
            portal.sock.close()
            self._give()

    def close(self, protocol: Protocol) -> None:
        """Listen at no portal of this protocol any longer."""
        for address in [address for address in self.portals if address.protocol is protocol]:
            self.leave(address)
