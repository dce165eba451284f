"""Figures as a person reads them."""

from datetime import UTC

import pytest

from userproxy.cli.output.units import age, amount, latency, rate, time_of_day


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (1023.6, "1.0KiB"),
        (1024, "1.0KiB"),
        (1536, "1.5KiB"),
        (10 * 1024, "10KiB"),
        (1024**2 - 1, "1.0MiB"),
        (5.25 * 1024**3, "5.2GiB"),
        (3000 * 1024**4, "3000TiB"),
    ],
)
def test_bytes_have_units_of_1024(number: float | None, text: str) -> None:
    assert amount(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (600, "10m"),
        (3 * 3600, "3h"),
        (4 * 3600 + 90, "4h1m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (2 * 86400, "2d"),
        (2 * 86400 + 5 * 3600, "2d5h"),
        (30 * 86400, "30d"),
    ],
)
def test_ages_are_rougher_the_longer_they_are(seconds: float | None, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0us"),
        (0.000085, "85us"),
        (0.0009996, "1.00ms"),
        (0.00125, "1.25ms"),
        (0.0123, "12.3ms"),
        (0.34, "340ms"),
        (0.9999, "1.00s"),
        (2.5, "2.50s"),
        (31.44, "31.4s"),
        (130, "2m10s"),
    ],
)
def test_short_times_have_three_digits(seconds: float | None, text: str) -> None:
    assert latency(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(None, "-"), (0, "0.0"), (0.25, "0.2"), (99.94, "99.9"), (4711.3, "4711")]
)
def test_rates_are_short(number: float | None, text: str) -> None:
    assert rate(number) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-21T22:17:34.123456Z", "Nov 21 22:17:34.123"),
        ("2026-11-03T02:00:00Z", "Nov  3 02:00:00.000"),
        ("2026-11-03T02:00:00.5+02:00", "Nov  3 00:00:00.500"),
    ],
)
def test_times_are_as_hubble_has_them(text: str, shown: str) -> None:
    assert time_of_day(text, UTC) == shown
