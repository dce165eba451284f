"""Blocks of a pcapng file, read by the specification."""

import struct

import pytest

from tests.admin.pcapng.reader import options, read
from userproxy.admin.pcapng.blocks import WholeBlocks, interface, packet, section_header, statistics

PACKET = bytes.fromhex("45000014000040004011") + bytes(10)
HEAD = section_header("userproxy", "all of it") + interface("client", "clients' side")


def frame(block: bytes) -> tuple[int, int, bytes, int]:
    """Kind, length, body, and the length at the end."""
    kind, length = struct.unpack_from("<II", block)
    return kind, length, block[8:-4], struct.unpack_from("<I", block, len(block) - 4)[0]


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (section_header("a", "b"), 0x0A0D0D0A),
        (section_header("", ""), 0x0A0D0D0A),
        (interface("client", "x" * 99), 1),
        (packet(0, 1.5, b"odd", 3, inbound=True), 6),
        (packet(0, 1.5, b"", 70, "a comment", inbound=False), 6),
        (statistics(1, 1.5, 7, "why"), 5),
    ],
)
def test_a_block_says_its_length_twice_and_is_padded(block: bytes, kind: int) -> None:
    found, length, _, again = frame(block)
    assert (found, length, again) == (kind, len(block), len(block))
    assert len(block) % 4 == 0


def test_a_file_says_who_has_made_it_and_what_interfaces_it_has() -> None:
    found = read(HEAD + statistics(0, 1.0, 7, "seven were too many"))
    assert (found.comment, found.interfaces) == ("all of it", ["client"])
    assert found.statistics == [(0, 7, "seven were too many")]
    _, _, body, _ = frame(section_header("userproxy 1", "x"))
    assert options(body[16:])[4] == b"userproxy 1"


@pytest.mark.parametrize("time", [0.0, 0.000001, 4.294967296, 1.7e9 + 0.25, 2.0**32])
def test_a_time_is_of_nanoseconds_in_two_halves(time: float) -> None:
    _, _, body, _ = frame(packet(3, time, b"data", 10, inbound=True))
    number, high, low, captured, size = struct.unpack_from("<IIIII", body)
    assert (number, (high << 32) + low, captured, size) == (3, int(time * 1e6) * 1000, 4, 10)


@pytest.mark.parametrize(("inbound", "flags"), [(True, 1), (False, 2)])
def test_a_packet_says_its_direction_and_has_a_comment_if_there_is_one(inbound: bool, flags: int) -> None:
    for comment in ("", "what was decided"):
        _, _, body, _ = frame(packet(0, 1.0, b"data", 4, comment, inbound=inbound))
        found = options(body[24:])
        assert found[2] == struct.pack("<I", flags)
        assert found.get(1, b"").decode() == comment


def test_an_option_that_is_too_long_is_cut() -> None:
    _, _, body, _ = frame(interface("n", "x" * 70_000))
    assert len(options(body[8:])[3]) == 65_535


def test_pieces_of_any_size_are_cut_behind_blocks_and_comments_of_statistics_are_found() -> None:
    file = HEAD + packet(0, 1.0, PACKET, 20, inbound=True) + statistics(0, 2.0, 1, "one was too many")
    ends = {len(HEAD), len(file)}
    for size in (1, 3, 7, 64, len(file)):
        blocks, whole = WholeBlocks(), b""
        for at in range(0, len(file), size):
            whole += blocks.add(file[at : at + size])
            assert whole == file[: len(whole)]
            assert len(whole) not in ends or blocks.comments == (["one was too many"] if whole == file else [])
        assert (whole, blocks.comments) == (file, ["one was too many"])


def test_half_a_block_is_kept_back() -> None:
    blocks = WholeBlocks()
    assert blocks.add(HEAD + HEAD[:20]) == HEAD
    assert blocks.add(HEAD[20:]) == HEAD
