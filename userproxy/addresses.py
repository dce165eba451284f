"""Addresses of sockets, as kube-proxy's flags and its configuration file write them."""

import ipaddress

from msgspec import Struct

HIGHEST_PORT = 65_535


class SocketAddress(Struct, frozen=True, gc=False):
    """Where a server listens: an IP address without brackets, and a port, of which 0 lets the kernel pick."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_socket_address(text: str, default_port: int) -> SocketAddress:
    """An address written ``IP``, ``IP:port`` or ``[IPv6]:port``. Raises ValueError with a clause."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")) or text.endswith("]"):
        host, port = text, str(default_port)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address, alone or with a port") from None
    if "%" in bare or (bare != host and address.version != 6):
        raise ValueError(f"{text!r} is not an IP address, alone or with a port")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= HIGHEST_PORT):
        raise ValueError(f"{text!r} has no port from 1 to {HIGHEST_PORT}")
    return SocketAddress(str(address), int(port))


def is_ipv6(text: str) -> bool:
    """Whether `text` is an IPv6 address; what is no address at all is not one either."""
    address = _address(text)
    return address is not None and address.version == 6


def is_loopback(text: str) -> bool:
    """Whether `text` is a loopback address."""
    address = _address(text)
    return address is not None and address.is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
