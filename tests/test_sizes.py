"""Sizes and rates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.sizes import format_rate, format_size, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("500B", 500),
        ("64KB", 64_000),
        ("64kB", 64_000),
        ("64k", 64_000),
        ("64KiB", 65_536),
        ("64 KiB", 65_536),
        ("1.5MB", 1_500_000),
        ("1.5MiB", 1_572_864),
        ("2GB", 2_000_000_000),
        ("2Gi", 2_147_483_648),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_rate(f"{text}/s") == size


@pytest.mark.parametrize("text", ["", "KB", "-1", "1e3", "1,5MB", "1.MB", "1TB", "١KB", "1 000", "1KB ", "1" * 16])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size such as 500B, 64KB or 1\.5MiB"):
        parse_size(text)
    with pytest.raises(ValueError, match="is not a rate such as 64KB/s or 1MB/s"):
        parse_rate(f"{text}/s")


@pytest.mark.parametrize("text", ["1MB", "1MB/m", "1Mb/s/s", "/s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1, "1B"), (64_000, "64KB"), (65_536, "64KiB"), (1_000_000, "1MB"), (1001, "1001B")]
)
def test_texts(size: int, text: str) -> None:
    assert format_size(size) == text
    assert format_rate(size) == f"{text}/s"


@given(st.integers(0, 10**14))
def test_a_text_means_what_it_was_made_of(size: int) -> None:
    assert parse_size(format_size(size)) == size
