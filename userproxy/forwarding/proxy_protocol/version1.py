"""Version 1 of the PROXY header: a line of text."""

from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from userproxy.forwarding.proxy_protocol.header import (
    Address,
    HeaderError,
    IPAddress,
    ProxyHeader,
    addressed,
    pair_of,
    port_number,
)

MOST_BYTES: Final = 107
"""The longest line, its end included."""

_BEGIN: Final = b"PROXY "
_END: Final = b"\r\n"
_FAMILIES: Final[dict[str, type[IPv4Address] | type[IPv6Address]]] = {"TCP4": IPv4Address, "TCP6": IPv6Address}


def encode(client: Address | None, portal: Address | None) -> bytes:
    """The line that says who is connected to where; ``UNKNOWN`` if either is not known."""
    if client is None or portal is None:
        return b"PROXY UNKNOWN\r\n"
    source, target = pair_of(client[0], portal[0])
    family = "TCP6" if source.version == 6 else "TCP4"
    return f"PROXY {family} {source} {target} {client[1]} {portal[1]}\r\n".encode()


def decode(data: bytes) -> tuple[ProxyHeader, int] | None:
    """The header that `data` begins with, and how many bytes it has; None if more are needed to tell.

    Raises HeaderError as soon as no more bytes could make it a header.
    """
    if not (data.startswith(_BEGIN) or _BEGIN.startswith(data)):
        raise HeaderError("it does not begin with a PROXY line")
    end = data.find(_END, 0, MOST_BYTES)
    if end < 0:
        if len(data) >= MOST_BYTES:
            raise HeaderError(f"its PROXY line has no end within {MOST_BYTES} bytes")
        return None
    return _meaning(data[len(_BEGIN) : end]), end + len(_END)


def _meaning(line: bytes) -> ProxyHeader:
    """What stands between ``PROXY`` and the end of the line."""
    try:
        family, *words = line.decode("ascii").split(" ")
    except UnicodeDecodeError:
        if line.startswith(b"UNKNOWN "):
            return ProxyHeader()  # what follows is to be ignored, whatever it is
        raise HeaderError("its PROXY line is not ASCII") from None
    if family == "UNKNOWN":
        return ProxyHeader()
    kind = _FAMILIES.get(family)
    if kind is None:
        raise HeaderError(f"its PROXY line names {family!r} instead of TCP4, TCP6 or UNKNOWN")
    if len(words) != 4:
        raise HeaderError("its PROXY line has not exactly two addresses and two ports")
    client, portal = (_address(kind, text) for text in words[:2])
    return addressed(client, port_number(words[2]), portal, port_number(words[3]))


def _address(kind: type[IPv4Address] | type[IPv6Address], text: str) -> IPAddress:
    try:
        if "%" in text:
            raise AddressValueError
        return kind(text)
    except AddressValueError:
        raise HeaderError(f"{text!r} is no {'IPv4' if kind is IPv4Address else 'IPv6'} address") from None
