"""What a PROXY header says, its bytes, and the one error of bytes that are none."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from msgspec import Struct

from userproxy.addresses import HIGHEST_PORT
from userproxy.errors import UserproxyError

Address: TypeAlias = tuple[str, int]
"""An IP address and a port."""

IPAddress: TypeAlias = IPv4Address | IPv6Address


class HeaderError(UserproxyError):
    """The first bytes of a connection are no PROXY header of the version that is wanted. The text is a clause."""


class ProxyHeader(Struct, frozen=True, gc=False):
    """Whose connection it is, and to where; both are None where the connection's own addresses count.

    IPv4 addresses that were written as IPv6 (``::ffff:192.0.2.1``) are IPv4 here, so that every network and every
    table has a client once.
    """

    client: Address | None = None
    portal: Address | None = None


def bare(text: str) -> IPAddress:
    """An address without the name of an interface that the kernel has put behind it (``fe80::1%eth0``)."""
    return ip_address(text.partition("%")[0])


def pair_of(client: str, portal: str) -> tuple[IPAddress, IPAddress]:
    """Two addresses as a header has them: of one family, so beside one of IPv6 one of IPv4 becomes ``::ffff:...``."""
    source, target = bare(client), bare(portal)
    if source.version != target.version:
        return _as_ipv6(source), _as_ipv6(target)
    return source, target


def addressed(client: IPAddress, client_port: int, portal: IPAddress, portal_port: int) -> ProxyHeader:
    """The header that has these addresses and ports, which are valid."""
    return ProxyHeader((_plain(client), client_port), (_plain(portal), portal_port))


def port_number(text: str) -> int:
    """A port as version 1 writes it: decimal, without leading zeros. Raises HeaderError."""
    if text.isascii() and text.isdecimal() and len(text) <= 5 and (text == "0" or text[0] != "0"):
        number = int(text)
        if number <= HIGHEST_PORT:
            return number
    raise HeaderError(f"{text!r} is no port number")


def _plain(address: IPAddress) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _as_ipv6(address: IPAddress) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(f"::ffff:{address}")
