"""IP addresses as text: their family, how they are written beside a port, and those that flags name."""

import ipaddress
import re
import socket
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from msgspec import Struct

HIGHEST_PORT: Final = 65_535

_CIDR: Final = re.compile(r"[0-9a-fA-F.:]+/[0-9]{1,3}")


class IPFamily(StrEnum):
    """One of the two address families; all of a proxy's state exists once for each."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


SOCKET_FAMILIES: Final = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}
"""The kernel's numbers of address families, which are netfilter's, too."""


def family_of(text: str) -> IPFamily:
    """The family of a valid address or network: only one of IPv6 has a colon, and nothing else is looked at."""
    return IPFamily.IPV6 if ":" in text else IPFamily.IPV4


def is_ipv6(text: str) -> bool:
    """Whether a valid address or network is one of IPv6. The name of a host is not."""
    return ":" in text


def of_family(texts: Iterable[str], family: IPFamily) -> list[str]:
    """Those of some valid addresses or networks that belong to `family`, in their order."""
    ipv6 = family is IPFamily.IPV6
    return [text for text in texts if (":" in text) is ipv6]


def socket_family(ip: str) -> socket.AddressFamily:
    """The family of the sockets that a valid address is for."""
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def host_and_port(host: str, port: int) -> str:
    """``10.0.0.1:80`` or ``[fd00::1]:80``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def network_of(ip: str) -> str:
    """The network that has this one valid address alone: ``10.0.0.1/32`` or ``fd00::1/128``."""
    return f"{ip}/128" if ":" in ip else f"{ip}/32"


def parse_network(text: str) -> str:
    """A network such as ``10.0.0.0/8`` in its canonical form, without host bits. Raises ValueError with a clause."""
    try:
        if not _CIDR.fullmatch(text.strip()):  # Python would read a netmask or a zone, too
            raise ValueError
        return str(ipaddress.ip_network(text.strip(), strict=False))
    except ValueError:
        raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8") from None


class SocketAddress(Struct, frozen=True, gc=False):
    """Where a server listens: an IP address without brackets, and a port, of which 0 lets the kernel pick."""

    host: str
    port: int

    def __str__(self) -> str:
        return host_and_port(self.host, self.port)


def parse_socket_address(text: str, default_port: int) -> SocketAddress:
    """An address written ``IP``, ``IP:port`` or ``[IPv6]:port``. Raises ValueError with a clause."""
    host, colon, port = text.rpartition(":")
    if not colon or (is_ipv6(host) and not host.startswith("[")) or text.endswith("]"):
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


def is_loopback(text: str) -> bool:
    """Whether `text` is a loopback address; what is no address at all is not one either."""
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
