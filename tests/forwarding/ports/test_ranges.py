"""kube-proxy 1.25's port ranges."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.forwarding.ports.ranges import PortRange, parse_port_range


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
    assert len(candidates) <= size + 1 + 8, "to try a port twice costs time"


def test_a_range_has_both_its_ends() -> None:
    ports = PortRange(40_000, 40_002)
    assert [port for port in range(39_998, 40_005) if port in ports] == [40_000, 40_001, 40_002]


@pytest.mark.parametrize(("ports", "text"), [(PortRange(40_000, 40_999), "40000-40999"), (PortRange(80, 80), "80")])
def test_a_range_is_written_as_it_is_read(ports: PortRange, text: str) -> None:
    assert str(ports) == text
    assert parse_port_range(text) == ports


def test_the_first_ports_that_are_tried_are_those_that_connect_takes_last() -> None:
    candidates = list(PortRange(32_768, 60_999).candidates(Random(1)))
    assert all(port % 2 for port in candidates[:8])
    assert len(set(candidates[:8])) == 8
