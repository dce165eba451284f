"""kube-proxy 1.25's port ranges."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.forwarding.ports import PortRange, parse_port_range


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", PortRange(0, 0)),
        ("0", PortRange(0, 0)),
        ("0-0", PortRange(0, 0)),
        ("41234", PortRange(41234, 41234)),
        ("40000-40999", PortRange(40000, 40999)),
        ("40000+999", PortRange(40000, 40999)),
        (" 1-65535 ", PortRange(1, 65535)),
    ],
)
def test_parses(text: str, expected: PortRange) -> None:
    assert parse_port_range(text) == expected


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("a", "'a' is not a port range"),
        ("1-", "'1-' is not a port range"),
        ("-1", "'-1' is not a port range"),
        ("1-2-3", "'1-2-3' is not a port range"),
        ("٤٠٠٠٠", "'٤٠٠٠٠' is not a port range"),
        ("4000０", "'4000０' is not a port range"),
        ("2-1", "'2-1' ends before it begins"),
        ("65000-65536", "goes beyond port 65535"),
        ("65000+1000", "goes beyond port 65535"),
        ("0-10", "contains port 0"),
    ],
)
def test_refuses(text: str, clause: str) -> None:
    with pytest.raises(ValueError, match=clause):
        parse_port_range(text)


@given(st.integers(1, 200), st.integers(0, 50), st.integers())
def test_candidates_are_the_whole_range(first: int, size: int, seed: int) -> None:
    candidates = list(PortRange(first, first + size).candidates(Random(seed)))
    assert sorted(candidates[-size - 1 :]) == list(range(first, first + size + 1))
    assert set(candidates) == set(candidates[-size - 1 :])


def test_the_first_ports_that_are_tried_are_those_that_connect_takes_last() -> None:
    candidates = list(PortRange(32_768, 60_999).candidates(Random(1)))
    assert all(port % 2 for port in candidates[:8])
    assert len(set(candidates[:8])) == 8
