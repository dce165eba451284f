"""Lines come out whole, however the bytes are cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from userproxy.cluster.watch_stream import LineFramer

LINES = st.lists(st.text().map(lambda text: text.replace("\n", " ") + "é").map(str.encode), max_size=8)


@given(LINES, st.lists(st.integers(0, 200)), st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")))
def test_any_cut_gives_the_same_lines(lines: list[bytes], cuts: list[int], trailing: bytes) -> None:
    stream = b"".join(line + b"\n" for line in lines) + trailing
    ends = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    framer = LineFramer()
    assert [line for a, b in pairwise(ends) for line in framer.feed(stream[a:b])] == lines


def test_byte_by_byte() -> None:
    framer = LineFramer()
    stream = '{"a":"é"}\n\n \n{"b":1}\n{"c"'.encode()
    assert [line for byte in stream for line in framer.feed(bytes([byte]))] == ['{"a":"é"}'.encode(), b'{"b":1}']
    assert framer.feed(b":2}\n") == [b'{"c":2}']


def test_a_huge_line_in_small_pieces_is_joined_once() -> None:
    framer, piece = LineFramer(), b"x" * 1024
    for _ in range(16 * 1024):
        assert framer.feed(piece) == []
    (line,) = framer.feed(b"\n")
    assert len(line) == 16 * 1024 * 1024
