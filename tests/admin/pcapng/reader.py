"""Reads pcapng files with IP packets and puts TCP streams together: by the specifications, and with nothing of ours."""

import socket
import struct
from dataclasses import dataclass, field

FIN, SYN, RST, ACK = 1, 2, 4, 16


@dataclass(frozen=True)
class Packet:
    interface: int
    nanoseconds: int
    size: int
    outbound: bool
    comment: str
    source: tuple[str, int]
    destination: tuple[str, int]
    protocol: int
    payload: bytes
    missing: int
    sequence: int = 0
    acknowledged: int = 0
    flags: int = 0


@dataclass
class Direction:
    """What one side has sent of a TCP stream."""

    next: int | None = None
    data: bytearray = field(default_factory=bytearray)
    missing: int = 0
    fin: bool = False


@dataclass
class CaptureFile:
    interfaces: list[str] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    statistics: list[tuple[int, int, str]] = field(default_factory=list)
    comment: str = ""


def read(data: bytes) -> CaptureFile:
    """All blocks of a file; asserts that lengths, paddings and checksums are right."""
    found = CaptureFile()
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0
        assert length >= 12
        assert at + length <= len(data)
        assert struct.unpack_from("<I", data, at + length - 4) == (length,)
        body = data[at + 8 : at + length - 4]
        if kind == 0x0A0D0D0A:
            assert at == 0
            assert struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
            found.comment = options(body[16:])[1].decode()
        elif kind == 1:
            link, _, _ = struct.unpack_from("<HHI", body)
            assert link == 101
            values = options(body[8:])
            assert values[9] == b"\x09"
            found.interfaces.append(values[2].decode())
        elif kind == 6:
            found.packets.append(packet(body))
            assert found.packets[-1].interface < len(found.interfaces)
        elif kind == 5:
            values = options(body[12:])
            found.statistics.append(
                (struct.unpack_from("<I", body)[0], int.from_bytes(values[5], "little"), values[1].decode())
            )
        else:
            raise AssertionError(f"block {kind:#x}")
        at += length
    return found


def options(data: bytes) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    at = 0
    while True:
        code, length = struct.unpack_from("<HH", data, at)
        if code == 0:
            assert at + 4 == len(data)
            return values
        values[code] = data[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4


def packet(body: bytes) -> Packet:
    interface, high, low, captured, size = struct.unpack_from("<IIIII", body)
    data = body[20 : 20 + captured]
    values = options(body[20 + captured + -captured % 4 :])
    missing = size - captured
    assert missing >= 0
    if data[0] >> 4 == 4:
        assert data[0] == 0x45
        assert carried(data[:20]) == 0xFFFF
        total, protocol = int.from_bytes(data[2:4], "big"), data[9]
        family, source, destination, rest = socket.AF_INET, data[12:16], data[16:20], data[20:]
    else:
        assert data[0] >> 4 == 6
        total, protocol = int.from_bytes(data[4:6], "big") + 40, data[6]
        family, source, destination, rest = socket.AF_INET6, data[8:24], data[24:40], data[40:]
    assert total == size
    if not missing:
        pseudo = source + destination + struct.pack("!II", len(rest), protocol)
        assert carried(pseudo + rest) == 0xFFFF
    ports = struct.unpack_from("!HH", rest)
    found = {}
    if protocol == 6:
        sequence, acknowledged, offset, flags = struct.unpack_from("!IIBB", rest, 4)
        found = {"sequence": sequence, "acknowledged": acknowledged, "flags": flags}
        payload = rest[(offset >> 4) * 4 :]
    else:
        assert protocol == 17
        assert int.from_bytes(rest[4:6], "big") == len(rest) + missing
        assert rest[6:8] != b"\0\0"
        payload = rest[8:]
    return Packet(
        interface,
        high << 32 | low,
        size,
        values[2] == b"\x02\0\0\0",
        values.get(1, b"").decode(),
        (socket.inet_ntop(family, source), ports[0]),
        (socket.inet_ntop(family, destination), ports[1]),
        protocol,
        payload,
        missing,
        **found,
    )


def carried(data: bytes) -> int:
    """The sum of all 16-bit words, carries added, as RFC 1071 describes it."""
    total = 0
    for (word,) in struct.iter_unpack("!H", data + b"\0" * (len(data) % 2)):
        total += word
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def streams(packets: list[Packet]) -> dict[tuple[tuple[str, int], tuple[str, int]], Direction]:
    """What each side has sent to whom; asserts that every segment is the next one, and acknowledges only what was sent.

    A SYN begins anew what an earlier connection has ended.
    """
    found: dict[tuple[tuple[str, int], tuple[str, int]], Direction] = {}
    for each in packets:
        key = each.source, each.destination
        if each.flags & SYN:
            assert key not in found
            found[key] = Direction(next=each.sequence)
        side = found.setdefault(key, Direction())
        if side.next is None:
            side.next = each.sequence
        assert each.sequence == side.next, "out of order"
        assert not side.fin or not (each.payload or each.missing)
        side.data += each.payload
        side.missing += each.missing
        length = len(each.payload) + each.missing + bool(each.flags & (SYN | FIN))
        side.fin = side.fin or bool(each.flags & FIN)
        side.next = (side.next + length) % 2**32
        other = found.get((each.destination, each.source))
        if each.flags & ACK and other is not None and other.next is not None:
            assert (other.next - each.acknowledged) % 2**32 < 2**31, "acknowledges what was not sent"
    return found
