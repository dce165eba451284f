"""Node ports held by sockets, so that no other program takes a port whose traffic we redirect."""

import errno
import socket

from userproxy.errors import PortUnavailableError
from userproxy.model import Protocol

_TYPES = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


class PortClaims:
    """Holds ports on every address of both families.

    The sockets are bound and never listen. Without SO_REUSEADDR on ours every other bind of the port
    fails; and where a connection does get past the rules, a bound socket answers with a reset, while a
    listening one would collect connections that nobody accepts (kubernetes#43212).
    """

    def __init__(self) -> None:
        self._sockets: dict[tuple[Protocol, int], socket.socket] = {}

    @property
    def held(self) -> frozenset[tuple[Protocol, int]]:
        return frozenset(self._sockets)

    def claim(self, protocol: Protocol, port: int) -> None:
        """Takes the port; it is ours already where it is in `held`. Raises PortUnavailableError."""
        if (protocol, port) in self._sockets:
            return
        if protocol not in _TYPES:
            raise PortUnavailableError(f"{protocol} port {port} cannot be claimed: userproxy forwards TCP and UDP")
        try:
            self._sockets[protocol, port] = _bind(_TYPES[protocol], port)
        except OSError as error:
            why = "another program holds it" if error.errno == errno.EADDRINUSE else error.strerror
            raise PortUnavailableError(f"{protocol} port {port} cannot be claimed: {why}") from error

    def release(self, protocol: Protocol, port: int) -> None:
        """Gives the port back. A port that is not held is no error."""
        held = self._sockets.pop((protocol, port), None)
        if held is not None:
            held.close()

    def close(self) -> None:
        """Gives every port back."""
        for protocol, port in self.held:
            self.release(protocol, port)


def _bind(kind: socket.SocketKind, port: int) -> socket.socket:
    try:
        return _bound(socket.AF_INET6, kind, "::", port)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
        return _bound(socket.AF_INET, kind, "0.0.0.0", port)


def _bound(family: socket.AddressFamily, kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    claim = socket.socket(family, kind)
    try:
        if family is socket.AF_INET6:
            claim.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if kind is socket.SOCK_DGRAM:
            # Nobody reads: what arrives past the rules is to cost no memory. The kernel has a minimum.
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        claim.bind((address, port))
    except BaseException:
        claim.close()
        raise
    return claim
