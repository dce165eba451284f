"""Ports held by sockets, so that no other program takes a port whose traffic we redirect."""

import asyncio
import errno
import os
import socket
import typing
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from typing import TypeAlias

import structlog

from userproxy.errors import PortUnavailableError
from userproxy.model import IPFamily, Protocol
from userproxy.portals.netlink.sock_diag import listened_on, why_not, wildcard_sockets
from userproxy.sockets import sharing_their_port, sharing_with_local_portals

log = structlog.get_logger()

Claim: TypeAlias = tuple[str, Protocol, int]
"""Address, empty for every one of the family; protocol; port."""

_FAMILIES = {IPFamily.IPV4: (socket.AF_INET, "0.0.0.0"), IPFamily.IPV6: (socket.AF_INET6, "::")}
_TYPES = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


class Descriptors(typing.Protocol):
    """Counts what ports are held with, for the limit of open files."""

    def take_for_port(self) -> None:
        """Raises OutOfDescriptorsError where there is none for it."""

    def adopt_port(self) -> None:
        """One more is open, whatever is left."""

    def give_port(self) -> None:
        """One is closed."""


class PortClaims:
    """Holds ports of one address family: on every address, or on one of the node's.

    The sockets are bound and never listen. Without SO_REUSEADDR on ours every other bind of the port
    fails; and where a connection does get past the rules, a bound socket answers with a reset, while a
    listening one would collect connections that nobody accepts (kubernetes#43212).
    """

    def __init__(self, family: IPFamily, descriptors: Descriptors | None = None) -> None:
        self._family = family
        self._descriptors = descriptors
        self._sockets: dict[Claim, socket.socket] = {}
        self._by_port: dict[tuple[Protocol, int], dict[str, socket.socket]] = {}
        self._inodes: dict[int, int] = {}
        """Of each socket, by its descriptor."""
        self._told = ""
        self._unasked: dict[Claim, None] = {}
        """Those of another process that nobody has asked for since."""

    def sockets(self) -> Iterator[tuple[Claim, socket.socket]]:
        """What is claimed now, and what it is held with."""
        yield from self._sockets.items()

    def adopt(self, ip: str, protocol: Protocol, port: int, descriptor: int) -> None:
        """Go on with a claim of another process, until `release_unasked` unless it is claimed again."""
        if self._descriptors is not None:
            self._descriptors.adopt_port()
        self._hold((ip, protocol, port), socket.socket(fileno=descriptor))
        self._unasked[ip, protocol, port] = None

    def release_unasked(self) -> None:
        """Release the claims of another process that nobody has claimed again."""
        while self._unasked:
            self.release(*next(iter(self._unasked)))

    @property
    def held(self) -> frozenset[Claim]:
        """What is claimed now."""
        return frozenset(self._sockets)

    def claim(self, ip: str, protocol: Protocol, port: int) -> None:
        """Takes the port on `ip`, or on every address of the family where `ip` is empty.

        It is ours already where it is in `held`. Every address and single ones are claimed independently
        of each other. Raises PortUnavailableError, also where no interface has `ip`, and OutOfDescriptorsError.
        """
        self._unasked.pop((ip, protocol, port), None)
        if (ip, protocol, port) in self._sockets:
            return
        if protocol not in _TYPES:
            raise PortUnavailableError(
                f"{_named(ip, protocol, port)} cannot be claimed: userproxy forwards TCP and UDP"
            )
        if self._descriptors is not None:
            self._descriptors.take_for_port()
        try:
            bound = self._bound_beside_local_portals(ip, protocol, port)
        except OSError as error:
            self._give_port()
            raise PortUnavailableError(f"{_named(ip, protocol, port)} cannot be claimed: {_why(error)}") from error
        self._hold((ip, protocol, port), bound)

    def _hold(self, claim: Claim, bound: socket.socket) -> None:
        ip, protocol, port = claim
        self._sockets[claim] = bound
        self._by_port.setdefault((protocol, port), {})[ip] = bound
        self._inodes[bound.fileno()] = os.fstat(bound.fileno()).st_ino

    def release(self, ip: str, protocol: Protocol, port: int) -> None:
        """Gives the port back. A port that is not held is no error."""
        self._unasked.pop((ip, protocol, port), None)
        held = self._sockets.pop((ip, protocol, port), None)
        if held is not None:
            siblings = self._by_port[protocol, port]
            del siblings[ip]
            if not siblings:
                del self._by_port[protocol, port]
            del self._inodes[held.fileno()]
            held.close()
            self._give_port()

    def _give_port(self) -> None:
        if self._descriptors is not None:
            self._descriptors.give_port()

    async def taken(self, ports: Collection[Claim]) -> frozenset[Claim]:
        """Those of `ports`, each of one address, on which a program listens now. Nothing is bound to find that out.

        Where the kernel does not tell, this is logged once and nothing counts as taken.
        """
        if not ports:
            return frozenset()
        own = set(self._inodes.values())
        try:
            found = await asyncio.to_thread(listened_on, self._family, ports, own)
        except OSError as error:
            self._tell(why_not(error))
            return frozenset()
        self._told = ""
        return found

    def _tell(self, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            log.warning(
                "What listens here cannot be found out: portals on this node's addresses may take programs' traffic",
                family=self._family,
                reason=reason,
            )

    def close(self) -> None:
        """Gives every port back."""
        for claim in self.held:
            self.release(*claim)

    def _bound_beside_local_portals(self, ip: str, protocol: Protocol, port: int) -> socket.socket:
        """As :meth:`_bound`, also while a userproxy of before, with the `local` driver, still has the port.

        It listens at the node's addresses until our rules stand, and its connections have the port for a minute after
        they have ended. Programs that listen on every address keep it, even if they would share it.
        """
        try:
            return self._bound(ip, protocol, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or wildcard_sockets(self._family, [(protocol, port)]).values():
                raise
        return self._bound(ip, protocol, port, beside_local_portals=True)

    def _bound(self, ip: str, protocol: Protocol, port: int, *, beside_local_portals: bool = False) -> socket.socket:
        family, everywhere = _FAMILIES[self._family]
        siblings = list(self._by_port.get((protocol, port), {}).values())
        claim = socket.socket(family, _TYPES[protocol])
        try:
            if family is socket.AF_INET6:
                claim.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol is Protocol.UDP:
                # Nobody reads: what arrives past the rules is to cost no memory. The kernel has a minimum.
                claim.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
            with (
                sharing_their_port(*((claim, *siblings) if siblings else ())),
                sharing_with_local_portals(claim) if beside_local_portals else nullcontext(),
            ):
                claim.bind((ip or everywhere, port))
        except BaseException:
            claim.close()
            raise
        return claim


class NoClaims:
    """For a driver that listens at portals itself: whoever listens on a port holds it."""

    def claim(self, ip: str, protocol: Protocol, port: int) -> None:
        """Nothing is held: the driver says where it cannot listen."""

    def release(self, ip: str, protocol: Protocol, port: int) -> None:
        """Nothing is held."""

    def sockets(self) -> Iterator[tuple[Claim, socket.socket]]:
        """Nothing is held."""
        yield from ()

    def adopt(self, ip: str, protocol: Protocol, port: int, descriptor: int) -> None:  # noqa: ARG002 - as PortClaims
        """Nothing is to be held."""
        os.close(descriptor)

    def release_unasked(self) -> None:
        """Nothing is held."""

    async def taken(self, ports: Collection[Claim]) -> Collection[Claim]:  # noqa: ARG002 - as PortClaims has it
        """None: what listens on a portal of ours is us, and what another program has the driver is told."""
        return ()

    def close(self) -> None:
        """Nothing is held."""


def _named(ip: str, protocol: Protocol, port: int) -> str:
    if not ip:
        return f"{protocol} port {port}"
    return f"{protocol} port {port} of {ip}"


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program holds it"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface has this address"
    if error.errno == errno.EACCES:
        return "ports as low as this one take CAP_NET_BIND_SERVICE"
    return error.strerror or str(error)
