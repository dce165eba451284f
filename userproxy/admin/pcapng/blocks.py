"""The blocks of a pcapng file (draft-ietf-opsawg-pcapng), little-endian, with times in nanoseconds."""

import struct
from typing import Final

SECTION_HEADER: Final = 0x0A0D0D0A
INTERFACE: Final = 1
INTERFACE_STATISTICS: Final = 5
PACKET: Final = 6

BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
RAW_IP: Final = 101
"""LINKTYPE_RAW: packets begin with an IPv4 or IPv6 header."""

COMMENT: Final = 1
_APPLICATION: Final = 4
_NAME: Final = 2
_DESCRIPTION: Final = 3
_TIME_RESOLUTION: Final = 9
_FLAGS: Final = 2
_DROPPED: Final = 5
_INBOUND, _OUTBOUND = 1, 2
_SECTION_OF_UNKNOWN_LENGTH: Final = -1
_LONGEST_OPTION: Final = 65_535

_FRAME: Final = struct.Struct("<II")
_PACKET: Final = struct.Struct("<IIIII")


def section_header(application: str, comment: str) -> bytes:
    """What a file begins with; `application` is the program that writes it, `comment` is about all of it."""
    body = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, _SECTION_OF_UNKNOWN_LENGTH)
    options = (COMMENT, comment.encode()), (_APPLICATION, application.encode())
    return _block(SECTION_HEADER, body + _options(*options))


def interface(name: str, description: str) -> bytes:
    """What packets refer to by the number of such blocks before it."""
    body = struct.pack("<HHI", RAW_IP, 0, 0)
    options = ((_NAME, name.encode()), (_DESCRIPTION, description.encode()), (_TIME_RESOLUTION, b"\x09"))
    return _block(INTERFACE, body + _options(*options))


def packet(number: int, time: float, data: bytes, size: int, comment: str = "", *, inbound: bool) -> bytes:
    """A packet of `size` bytes, of which `data` are here, at an interface and a Unix time."""
    high, low = _time(time)
    options = [(_FLAGS, struct.pack("<I", _INBOUND if inbound else _OUTBOUND))]
    if comment:
        options.append((COMMENT, comment.encode()))
    return _block(PACKET, _PACKET.pack(number, high, low, len(data), size) + _padded(data) + _options(*options))


def statistics(number: int, time: float, dropped: int, comment: str) -> bytes:
    """How many packets of an interface are missing, and why."""
    body = struct.pack("<III", number, *_time(time))
    return _block(
        INTERFACE_STATISTICS, body + _options((COMMENT, comment.encode()), (_DROPPED, struct.pack("<Q", dropped)))
    )


class WholeBlocks:
    """Cuts a file that comes in pieces behind its blocks. `comments` are those of statistics among them."""

    def __init__(self) -> None:
        self._rest = b""
        self.comments: list[str] = []

    def add(self, piece: bytes) -> bytes:
        """The blocks that are whole by now. The file is one that this module has made."""
        data, at = self._rest + piece, 0
        while at + _FRAME.size <= len(data):
            kind, length = _FRAME.unpack_from(data, at)
            if at + length > len(data):
                break
            if kind == INTERFACE_STATISTICS:
                # Its number and time are 12 bytes, and the comment is the first option.
                (size,) = struct.unpack_from("<H", data, at + 22)
                self.comments.append(data[at + 24 : at + 24 + size].decode())
            at += length
        self._rest = data[at:]
        return data[:at]


def _time(time: float) -> tuple[int, int]:
    # A float of today has a quarter of a microsecond.
    return divmod(int(time * 1e6) * 1000, 1 << 32)


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return b"".join((_FRAME.pack(kind, length), body, struct.pack("<I", length)))


def _options(*options: tuple[int, bytes]) -> bytes:
    parts = []
    for code, value in options:
        cut = value[:_LONGEST_OPTION]
        parts += [struct.pack("<HH", code, len(cut)), _padded(cut)]
    return b"".join(parts) + bytes(4)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
