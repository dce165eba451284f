"""Addresses as text: their family, how they are written beside a port, and what flags may say."""

import ipaddress
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.addresses import (
    HIGHEST_PORT,
    SOCKET_FAMILIES,
    IPFamily,
    SocketAddress,
    family_of,
    host_and_port,
    is_ipv6,
    is_loopback,
    network_of,
    of_family,
    parse_network,
    parse_socket_address,
    socket_family,
)

BOTH = ("10.0.0.1", "fd00::/8", "::", "192.0.2.0/24", "::ffff:1.2.3.4")
ADDRESSES = st.ip_addresses().map(str)
PORTS = st.integers(1, HIGHEST_PORT)


def test_each_family_has_its_own_in_their_order() -> None:
    assert of_family(BOTH, IPFamily.IPV4) == ["10.0.0.1", "192.0.2.0/24"]
    assert of_family(BOTH, IPFamily.IPV6) == ["fd00::/8", "::", "::ffff:1.2.3.4"]


@given(st.ip_addresses(), st.integers(0, 32))
def test_the_family_of_an_address_and_of_its_networks_is_that_of_the_library(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    family = f"IPv{address.version}"
    network = ipaddress.ip_network((address, length), strict=False)
    assert family_of(str(address)) == family_of(str(network)) == family
    assert is_ipv6(str(address)) is (address.version == 6)
    assert socket_family(str(address)) is SOCKET_FAMILIES[family_of(str(network))]
    socket.inet_pton(socket_family(str(address)), str(address))


@given(ADDRESSES)
def test_the_network_of_an_address_has_that_address_alone(address: str) -> None:
    network = ipaddress.ip_network(network_of(address))
    assert [str(each) for each in network] == [address]


def test_an_ipv6_address_stands_in_brackets_before_a_port() -> None:
    assert host_and_port("fd00::1", 80) == "[fd00::1]:80"
    assert host_and_port("10.0.0.1", 80) == "10.0.0.1:80"


@given(ADDRESSES, PORTS)
def test_what_is_written_is_read_again(host: str, port: int) -> None:
    assert parse_socket_address(host_and_port(host, port), 1) == SocketAddress(host, port)
    assert str(SocketAddress(host, port)) == host_and_port(host, port)


@given(ADDRESSES, PORTS)
def test_without_a_port_the_default_holds(host: str, port: int) -> None:
    assert parse_socket_address(host, port) == SocketAddress(host, port)
    assert parse_socket_address(f"[{host}]" if is_ipv6(host) else host, port) == SocketAddress(host, port)


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("", "'' is not an IP address, alone or with a port"),
        ("localhost", "'localhost' is not an IP address, alone or with a port"),
        ("10.0.0.256", "'10.0.0.256' is not an IP address, alone or with a port"),
        ("fe80::1%eth0", "'fe80::1%eth0' is not an IP address, alone or with a port"),
        ("[10.0.0.1]:80", "'[10.0.0.1]:80' is not an IP address, alone or with a port"),
        ("10.0.0.1:0", "'10.0.0.1:0' has no port from 1 to 65535"),
        ("10.0.0.1:65536", "'10.0.0.1:65536' has no port from 1 to 65535"),
        ("10.0.0.1:http", "'10.0.0.1:http' has no port from 1 to 65535"),
        ("10.0.0.1:", "'10.0.0.1:' has no port from 1 to 65535"),
        ("10.0.0.1:٨٠", "'10.0.0.1:٨٠' has no port from 1 to 65535"),
        ("10.0.0.1:000080", "'10.0.0.1:000080' has no port from 1 to 65535"),
    ],
)
def test_what_cannot_be_listened_at_is_named(text: str, clause: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(clause)}$"):
        parse_socket_address(text, 80)


@pytest.mark.parametrize("text", ["127.0.0.1", "127.255.0.1", "::1"])
def test_loopback(text: str) -> None:
    assert is_loopback(text)


@pytest.mark.parametrize("text", ["10.0.0.1", "::", "localhost", ""])
def test_what_is_not_loopback_or_no_address(text: str) -> None:
    assert not is_loopback(text)


def test_the_name_of_a_host_is_no_ipv6_address() -> None:
    assert not is_ipv6("example.org")


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        (" 10.1.2.3/8 ", "10.0.0.0/8"),
        ("FD00:0::1/64", "fd00::/64"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("192.0.2.1/32", "192.0.2.1/32"),
    ],
)
def test_a_network_is_read_without_host_bits(text: str, network: str) -> None:
    assert parse_network(text) == network


@pytest.mark.parametrize("text", ["", "10.0.0.1", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "fe80::%1/64", "x/8", "10/8"])
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(repr(text))} is not a network such as 10.0.0.0/8$"):
        parse_network(text)
