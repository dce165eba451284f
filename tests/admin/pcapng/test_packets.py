"""IP packets, read by the specifications."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.admin.pcapng.packets import ACK, FIN, PSH, SYN, Path, checksum
from userproxy.model.reports import SocketAddress

FOUR = SocketAddress("192.0.2.1", 40000), SocketAddress("10.96.0.10", 80)
SIX = SocketAddress("fd00::1%eth0", 40000), SocketAddress("fd00::2", 80)
FAMILIES = pytest.mark.parametrize(("ends", "header"), [(FOUR, 20), (SIX, 40)], ids=["IPv4", "IPv6"])
Ends = tuple[SocketAddress, SocketAddress]


def word_by_word(data: bytes) -> int:
    """The Internet checksum as RFC 1071 has it."""
    total = 0
    for (word,) in struct.iter_unpack("!H", data + bytes(len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(min_size=1, max_size=99).filter(any), st.binary(max_size=99))
def test_the_checksum_is_that_of_rfc_1071(first: bytes, last: bytes) -> None:
    first += bytes(len(first) % 2)
    assert checksum(first, last) == word_by_word(first + last)


def pseudo_header(packet: bytes, header: int, protocol: int) -> bytes:
    addresses = packet[12:20] if header == 20 else packet[8:40]
    return addresses + struct.pack("!II", len(packet) - header, protocol)


@FAMILIES
@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
def test_a_segment_is_whole_and_right(ends: Ends, header: int, payload: bytes) -> None:
    packet = Path(*ends).segment(7, 9, SYN | ACK, payload, options=b"\2\4\5\xb4")
    source, destination, sequence, acknowledged, words, flags = struct.unpack_from("!HHIIBB", packet, header)
    assert (source, destination, sequence, acknowledged, flags) == (40000, 80, 7, 9, SYN | ACK)
    assert packet[header + (words >> 4) * 4 :] == payload
    assert word_by_word(pseudo_header(packet, header, socket.IPPROTO_TCP) + packet[header:]) == 0


@FAMILIES
def test_without_ack_nothing_is_acknowledged(ends: Ends, header: int) -> None:
    assert struct.unpack_from("!I", Path(*ends).segment(7, 9, FIN), header + 8) == (0,)


@FAMILIES
@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
def test_a_datagram_is_whole_and_right(ends: Ends, header: int, payload: bytes) -> None:
    packet = Path(*ends).datagram(payload)
    assert struct.unpack_from("!HHH", packet, header) == (40000, 80, 8 + len(payload))
    assert packet[header + 8 :] == payload
    assert word_by_word(pseudo_header(packet, header, socket.IPPROTO_UDP) + packet[header:]) == 0


@FAMILIES
def test_a_checksum_of_0_is_written_as_all_ones(ends: Ends, header: int) -> None:
    """In UDP 0 says that there is none (RFC 768): the payload is chosen so that it comes to that."""
    path = Path(*ends)
    (value,) = struct.unpack_from("!H", path.datagram(b"\0\0"), header + 6)
    assert struct.unpack_from("!H", path.datagram(value.to_bytes(2, "big")), header + 6) == (0xFFFF,)


@FAMILIES
def test_what_is_missing_counts_in_lengths(ends: Ends, header: int) -> None:
    for packet in (Path(*ends).segment(1, 1, ACK | PSH, b"data", 96), Path(*ends).datagram(b"data", 96)):
        length = struct.unpack_from("!H", packet, 2 if header == 20 else 4)[0] + (0 if header == 20 else 40)
        assert length == len(packet) + 96


def test_ipv4_packets_have_numbers_and_headers_that_check() -> None:
    path = Path(*FOUR)
    packets = [path.datagram(b"x"), path.segment(1, 1, ACK)]
    assert [struct.unpack_from("!H", each, 4)[0] for each in packets] == [1, 2]
    assert [word_by_word(each[:20]) for each in packets] == [0, 0]
    assert [each[12:20] for each in packets] == [socket.inet_aton("192.0.2.1") + socket.inet_aton("10.96.0.10")] * 2


def test_a_zone_is_left_out() -> None:
    assert Path(*SIX).datagram(b"")[8:24] == socket.inet_pton(socket.AF_INET6, "fd00::1")
