"""The PROXY header in either version, by the name that a Service asks for it by."""

from typing import Final

from userproxy.forwarding.proxy_protocol import version1, version2
from userproxy.forwarding.proxy_protocol.header import Address, ProxyHeader
from userproxy.model import ProxyProtocol

MOST_BYTES: Final = {ProxyProtocol.V1: version1.MOST_BYTES, ProxyProtocol.V2: version2.MOST_BYTES}
"""The longest header that is read."""


def encode(version: ProxyProtocol, client: Address | None, portal: Address | None) -> bytes:
    """The header that says who is connected to where, or if either is None that it does not say so.

    It has 107 bytes at most, which fit into any socket's buffer and into one segment.
    """
    return version1.encode(client, portal) if version is ProxyProtocol.V1 else version2.encode(client, portal)


def decode(version: ProxyProtocol, data: bytes) -> tuple[ProxyHeader, int] | None:
    """The header that `data` begins with, and how many bytes it has; None if more are needed to tell.

    Raises HeaderError as soon as no more bytes could make it a header of this version.
    """
    return version1.decode(data) if version is ProxyProtocol.V1 else version2.decode(data)
