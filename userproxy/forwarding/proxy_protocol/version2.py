"""Version 2 of the PROXY header: binary, with values beside the addresses that are skipped here."""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from userproxy.forwarding.proxy_protocol.header import Address, HeaderError, ProxyHeader, addressed, pair_of

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"

MOST_BYTES: Final = 16 * 1024
"""The longest header that is read: HAProxy's own limit. The format allows 64 KiB, and certificates are what could make
it so long."""

_FIXED: Final = struct.Struct("!12sBBH")
_VERSION: Final = 0x20
_LOCAL, _PROXY = 0x20, 0x21

_UNSPECIFIED, _INET, _INET6, _UNIX = range(4)
_STREAM, _DATAGRAM = 1, 2
_ADDRESSES: Final = {
    _UNSPECIFIED: struct.Struct(""),
    _INET: struct.Struct("!4s4sHH"),
    _INET6: struct.Struct("!16s16sHH"),
    _UNIX: struct.Struct("108s108s"),
}

_VALUE: Final = struct.Struct("!BH")
_CRC32C: Final = 0x03
_CRC32C_BYTES: Final = 4


def encode(client: Address | None, portal: Address | None) -> bytes:
    """The header that says who is connected to where; LOCAL, which every receiver takes, if either is not known."""
    if client is None or portal is None:
        return _FIXED.pack(SIGNATURE, _LOCAL, 0, 0)
    source, target = pair_of(client[0], portal[0])
    family = _INET6 if source.version == 6 else _INET
    layout = _ADDRESSES[family]
    fixed = _FIXED.pack(SIGNATURE, _PROXY, family << 4 | _STREAM, layout.size)
    return fixed + layout.pack(source.packed, target.packed, client[1], portal[1])


def decode(data: bytes) -> tuple[ProxyHeader, int] | None:
    """The header that `data` begins with, and how many bytes it has; None if more are needed to tell.

    Raises HeaderError as soon as no more bytes could make it a header.
    """
    if not (data.startswith(SIGNATURE) or SIGNATURE.startswith(data)):
        raise HeaderError("it does not begin with the signature of a PROXY header")
    if len(data) < _FIXED.size:
        return None
    _, command, kind, length = _FIXED.unpack_from(data)
    size = _FIXED.size + length
    family, transport = kind >> 4, kind & 0xF
    if command not in (_LOCAL, _PROXY):
        what = "command" if command & 0xF0 == _VERSION else "version"
        raise HeaderError(f"its PROXY header has an unknown {what} (0x{command:02x})")
    if command == _PROXY and (family not in _ADDRESSES or transport > _DATAGRAM):
        raise HeaderError(f"its PROXY header has an unknown family or transport (0x{kind:02x})")
    if command == _PROXY and length < _ADDRESSES[family].size:
        raise HeaderError(f"its PROXY header has {length} bytes of addresses, not {_ADDRESSES[family].size}")
    if size > MOST_BYTES:
        raise HeaderError(f"its PROXY header has {size} bytes, of {MOST_BYTES} at most")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return ProxyHeader(), size
    return _meaning(data[:size], family, transport), size


def _meaning(header: bytes, family: int, transport: int) -> ProxyHeader:
    """What a complete header of command PROXY says. What is not TCP over IP leaves the connection's own addresses."""
    layout = _ADDRESSES[family]
    if family != _UNSPECIFIED:  # behind no family, nobody knows where values would begin
        _verify(header, _FIXED.size + layout.size)
    if transport != _STREAM or family not in (_INET, _INET6):
        return ProxyHeader()
    source, target, client_port, portal_port = layout.unpack_from(header, _FIXED.size)
    kind = IPv4Address if family == _INET else IPv6Address
    return addressed(kind(source), client_port, kind(target), portal_port)


def _verify(header: bytes, start: int) -> None:
    """Raise HeaderError if a value runs over the end, or the checksum, where there is one, is not that of the header.

    Only one is taken: whoever could send hundreds, all of them right, would keep us busy for a second.
    """
    checksums = [(at, length) for value_type, at, length in _values(header, start) if value_type == _CRC32C]
    if not checksums:
        return
    at, length = checksums[0]
    if len(checksums) > 1 or length != _CRC32C_BYTES:
        raise HeaderError("its PROXY header has not one checksum of four bytes")
    blank = header[:at] + bytes(length) + header[at + length :]
    if crc32c(blank) != int.from_bytes(header[at : at + length], "big"):
        raise HeaderError("its PROXY header has a wrong checksum")


def _values(header: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Type, position and length of each value from `start` to the end."""
    at = start
    while at < len(header):
        if at + _VALUE.size > len(header):
            raise HeaderError("its PROXY header ends within a value")
        value_type, length = _VALUE.unpack_from(header, at)
        at += _VALUE.size
        if at + length > len(header):
            raise HeaderError("its PROXY header ends within a value")
        yield value_type, at, length
        at += length


def crc32c(data: bytes) -> int:
    """The checksum of Castagnoli's polynomial, as for SCTP (RFC 9260, appendix A). 16 KiB take 1 ms."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 if crc & 1 else crc >> 1
        table.append(crc)
    return tuple(table)


_CRC32C_TABLE: Final = _table()
