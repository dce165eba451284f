"""Marks as text, and who else uses them."""

import pytest

from userproxy.portals.return_path.marks import DEFAULT, KNOWN, Mark, known_users, overlapping, parse_mark


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("0x1000", Mark(0x1000, 0x1000)),
        ("4096", Mark(0x1000, 0x1000)),
        ("0X500/0xf00", Mark(0x500, 0xF00)),
        ("0xffffffff", Mark(0xFFFFFFFF, 0xFFFFFFFF)),
        (" 0x1/0x3 ", Mark(1, 3)),
    ],
)
def test_a_mark_is_a_value_with_or_without_a_mask(text: str, mark: Mark) -> None:
    assert parse_mark(text) == mark
    assert parse_mark(str(mark)) == mark


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no mark such as 0x1000/0x1000"),
        ("mark", "is no mark"),
        ("0x", "is no mark"),
        ("-1", "is no mark"),
        ("1_000", "is no mark"),
        ("0x1/", "is no mark"),
        ("0x1/0x1/0x1", "is no mark"),
        ("٣", "is no mark"),
        ("0", "marks nothing"),
        ("0/0xf00", "marks nothing"),
        ("0x1000/0xf00", "has bits in its value that its mask has not"),
        ("4294967296", "has more than 32 bits"),
    ],
)
def test_what_is_no_mark_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_mark(text)


def test_the_default_is_nobody_elses() -> None:
    assert not list(known_users(DEFAULT))
    for name, mark in KNOWN:
        assert name in known_users(mark)


def test_marks_overlap_where_their_masks_do() -> None:
    others = [Mark(0x1000, 0xF000), Mark(0, 0x1000), Mark(0x4000, 0x4000)]
    assert list(overlapping(DEFAULT, others)) == others[:2]
