"""Addresses in networks, beside the standard library's own arithmetic."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userproxy.routing.networks import Networks

few = st.one_of(
    st.integers(0, 1023).map(lambda number: str(ipaddress.IPv4Address(0x0A000000 + number))),
    st.integers(0, 1023).map(lambda number: str(ipaddress.IPv6Address((0xFD << 120) + number))),
    st.integers(0, 1023).map(lambda number: str(ipaddress.IPv6Address(0x0A000000 + number))),
)
networks = st.builds(
    lambda ip, left: str(
        ipaddress.ip_network((ip, max(0, ipaddress.ip_address(ip).max_prefixlen - left)), strict=False)
    ),
    few,
    st.integers(0, 9) | st.just(128),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(networks, max_size=5), few)
def test_an_address_is_in_a_network(texts: list[str], ip: str) -> None:
    address = ipaddress.ip_address(ip)
    assert (ip in Networks(texts)) is any(address in ipaddress.ip_network(text) for text in texts)
    assert bool(Networks(texts)) is bool(texts)


def test_the_name_of_an_interface_does_not_count() -> None:
    assert "fe80::1%eth0" in Networks(["fe80::/64"])


def test_what_is_no_network() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Networks(["nonsense"])
