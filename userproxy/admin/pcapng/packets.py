"""IP packets with TCP segments and UDP datagrams in them, their checksums included."""

import ipaddress
import struct
from typing import Final

from userproxy.model.reports import SocketAddress

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

TCP: Final = 6
UDP: Final = 17

_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_TCP: Final = struct.Struct("!HHIIBBHHH")
_UDP: Final = struct.Struct("!HHHH")
_DO_NOT_FRAGMENT: Final = 0x4000
_HOPS: Final = 64


class Path:
    """From one address to another, both of one family. A zone such as ``%eth0`` is left out."""

    __slots__ = ("_destination", "_identification", "_is_ipv6", "_ports", "_source")

    def __init__(self, source: SocketAddress, destination: SocketAddress) -> None:
        self._source, self._destination = _packed(source.ip), _packed(destination.ip)
        self._ports = source.port, destination.port
        self._is_ipv6 = len(self._source) == 16
        self._identification = 0

    def segment(
        self, sequence: int, acknowledged: int, flags: int, payload: bytes = b"", missing: int = 0, options: bytes = b""
    ) -> bytes:
        """A TCP segment. `missing` bytes follow its payload that are not here; its checksum is then not right."""
        size = _TCP.size + len(options) + len(payload) + missing
        words = (_TCP.size + len(options)) // 4 << 4
        head = _TCP.pack(*self._ports, sequence, acknowledged if flags & ACK else 0, words, flags, 65_535, 0, 0)
        value = checksum(self._pseudo_header(TCP, size) + head + options, payload)
        return b"".join((self._header(TCP, size), head[:16], value.to_bytes(2, "big"), head[18:], options, payload))

    def datagram(self, payload: bytes, missing: int = 0) -> bytes:
        """A UDP datagram. `missing` bytes follow its payload that are not here."""
        size = _UDP.size + len(payload) + missing
        head = _UDP.pack(*self._ports, size, 0)
        value = checksum(self._pseudo_header(UDP, size) + head, payload) or 0xFFFF  # 0 says that there is none
        return b"".join((self._header(UDP, size), head[:6], value.to_bytes(2, "big"), payload))

    def _header(self, protocol: int, size: int) -> bytes:
        if self._is_ipv6:
            return _IPV6.pack(6 << 28, size, protocol, _HOPS, self._source, self._destination)
        self._identification = (self._identification + 1) & 0xFFFF
        fields = (0x45, 0, _IPV4.size + size, self._identification, _DO_NOT_FRAGMENT, _HOPS, protocol)
        value = checksum(_IPV4.pack(*fields, 0, self._source, self._destination))
        return _IPV4.pack(*fields, value, self._source, self._destination)

    def _pseudo_header(self, protocol: int, size: int) -> bytes:
        return self._source + self._destination + struct.pack("!II", size, protocol)


def checksum(*parts: bytes) -> int:
    """The Internet checksum (RFC 1071) of what is not all zeros. All parts but the last have an even length."""
    # To add 16-bit words with end-around carry is to take the whole as a number modulo 2**16 - 1.
    total = sum(int.from_bytes(part if len(part) % 2 == 0 else part + b"\0", "big") % 0xFFFF for part in parts)
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)


def _packed(ip: str) -> bytes:
    return ipaddress.ip_address(ip.partition("%")[0]).packed
