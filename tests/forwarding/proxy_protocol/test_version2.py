"""The binary header of version 2, beside the specification's layout."""

import struct

import pytest

from userproxy.forwarding.proxy_protocol.header import HeaderError, ProxyHeader
from userproxy.forwarding.proxy_protocol.version2 import MOST_BYTES, SIGNATURE, crc32c, decode, encode

LOCAL, PROXY = 0x20, 0x21
TCP4, UDP4, TCP6, UDP6, UNIX, UNIX_DATAGRAM, UNSPECIFIED = 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x00
INET = bytes((192, 0, 2, 1, 10, 0, 0, 1)) + struct.pack("!HH", 4711, 80)
INET6 = bytes.fromhex("20010db8" + "00" * 11 + "01" + "fd" + "00" * 14 + "02") + struct.pack("!HH", 4711, 80)
SAYS_INET = ProxyHeader(("192.0.2.1", 4711), ("10.0.0.1", 80))
SAYS_INET6 = ProxyHeader(("2001:db8::1", 4711), ("fd00::2", 80))


def built(command: int, kind: int, rest: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, kind, len(rest)) + rest


def value(kind: int, content: bytes) -> bytes:
    return struct.pack("!BH", kind, len(content)) + content


def with_checksum(before: bytes, after: bytes = b"") -> bytes:
    blank = built(PROXY, TCP4, INET + before + value(3, bytes(4)) + after)
    at = 16 + len(INET) + len(before) + 3
    return blank[:at] + struct.pack("!I", crc32c(blank)) + blank[at + 4 :]


def test_the_signature() -> None:
    assert SIGNATURE.hex() == "0d0a0d0a000d0a515549540a"


def test_what_is_written_has_the_specified_layout() -> None:
    assert encode(("192.0.2.1", 4711), ("10.0.0.1", 80)) == built(PROXY, TCP4, INET)
    assert encode(("2001:db8::1", 4711), ("fd00::2", 80)) == built(PROXY, TCP6, INET6)
    assert encode(None, ("10.0.0.1", 80)) == encode(("10.0.0.1", 80), None) == built(LOCAL, UNSPECIFIED, b"")


@pytest.mark.parametrize(
    ("command", "kind", "rest", "says"),
    [
        (PROXY, TCP4, INET, SAYS_INET),
        (PROXY, TCP6, INET6, SAYS_INET6),
        (PROXY, TCP4, INET + value(0xEA, b"\1vpce-1") + value(4, b""), SAYS_INET),
        (PROXY, TCP6, INET6 + value(0x20, bytes(60)), SAYS_INET6),
        (LOCAL, UNSPECIFIED, b"", ProxyHeader()),
        (LOCAL, TCP4, INET, ProxyHeader()),
        (LOCAL, 0xFF, b"whatever", ProxyHeader()),
        (PROXY, UNSPECIFIED, b"", ProxyHeader()),
        (PROXY, UNSPECIFIED, b"whatever", ProxyHeader()),
        (PROXY, UDP4, INET, ProxyHeader()),
        (PROXY, UDP6, INET6, ProxyHeader()),
        (PROXY, 0x10, INET, ProxyHeader()),
        (PROXY, UNIX, bytes(216), ProxyHeader()),
        (PROXY, UNIX_DATAGRAM, bytes(216), ProxyHeader()),
    ],
)
def test_what_headers_say(command: int, kind: int, rest: bytes, says: ProxyHeader) -> None:
    header = built(command, kind, rest)
    assert decode(header + b"payload") == (says, len(header))
    assert {decode(header[:size]) for size in range(len(header))} == {None}


@pytest.mark.parametrize(
    ("command", "kind", "rest"),
    [
        (0x11, TCP4, INET),
        (0x31, TCP4, INET),
        (0x22, TCP4, INET),
        (0x2F, TCP4, INET),
        (PROXY, 0x13, INET),
        (PROXY, 0x41, INET),
        (PROXY, 0xF1, INET),
        (PROXY, TCP4, INET[:-1]),
        (PROXY, TCP4, b""),
        (PROXY, TCP6, INET),
        (PROXY, TCP6, INET6[:-1]),
        (PROXY, UNIX, bytes(215)),
        (PROXY, TCP4, INET + b"\x01"),
        (PROXY, TCP4, INET + b"\x01\x00"),
        (PROXY, TCP4, INET + b"\x01\x00\x01"),
        (PROXY, TCP4, INET + value(4, b"") + b"\x01\xff\xff12"),
        (PROXY, TCP4, INET + value(3, b"")),
        (PROXY, TCP4, INET + value(3, b"1234")),
        (PROXY, TCP4, INET + value(3, b"12345")),
    ],
)
def test_a_header_that_is_not_as_specified_is_refused(command: int, kind: int, rest: bytes) -> None:
    with pytest.raises(HeaderError):
        decode(built(command, kind, rest))


@pytest.mark.parametrize("data", [b"P", b"\r\n\r\n\1", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", SIGNATURE[1:]])
def test_what_cannot_become_a_header_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(HeaderError):
        decode(data)


def test_bad_fixed_bytes_are_refused_before_the_rest_has_come() -> None:
    for fixed in (b"\x11\x11\0\x0c", b"\x21\x41\0\x0c", b"\x21\x11\0\x0b", b"\x21\x11\xff\xff"):
        with pytest.raises(HeaderError):
            decode(SIGNATURE + fixed)


def test_a_header_may_have_sixteen_kibibytes() -> None:
    longest = built(PROXY, TCP4, INET + value(4, bytes(MOST_BYTES - 16 - len(INET) - 3)))
    assert decode(longest) == (SAYS_INET, MOST_BYTES)
    with pytest.raises(HeaderError):
        decode(built(PROXY, TCP4, INET + value(4, bytes(MOST_BYTES - 16 - len(INET) - 2))))
    with pytest.raises(HeaderError):
        decode(built(LOCAL, UNSPECIFIED, bytes(MOST_BYTES)))


def test_the_checksum_of_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value that catalogues of CRCs give
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(bytes([0xFF]) * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize(("before", "after"), [(b"", b""), (value(4, b"x"), b""), (value(5, b"id"), value(4, b""))])
def test_a_checksum_is_that_of_the_whole_header(before: bytes, after: bytes) -> None:
    header = with_checksum(before, after)
    assert decode(header + b"payload") == (SAYS_INET, len(header))
    for at in (16, 20, 24, len(header) - 1):
        flipped = header[:at] + bytes([header[at] ^ 1]) + header[at + 1 :]
        with pytest.raises(HeaderError):
            decode(flipped)


def test_a_second_checksum_is_refused() -> None:
    with pytest.raises(HeaderError):
        decode(with_checksum(value(3, bytes(4))))
