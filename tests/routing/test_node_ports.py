"""nodePortAddresses against the node's addresses."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userproxy.model import IPFamily
from userproxy.routing.node_ports import node_port_ips

IPV4, IPV6 = IPFamily
ADDRESSES = ("127.0.0.1", "192.0.2.10", "10.0.0.5", "::1", "2001:db8::10", "fd00::5")
NODE_IPS = ("192.0.2.10", "2001:db8::10")


@pytest.mark.parametrize(
    ("cidrs", "family", "localhost", "expected"),
    [
        ((), IPV4, True, None),
        ((), IPV6, True, None),
        ((), IPV4, False, ("10.0.0.5", "192.0.2.10")),
        ((), IPV6, False, None),
        (("192.0.2.0/24",), IPV4, True, ("192.0.2.10",)),
        (("192.0.2.0/24",), IPV6, True, None),
        (("2001:db8::/32",), IPV4, True, None),
        (("2001:db8::/32",), IPV4, False, ("10.0.0.5", "192.0.2.10")),
        (("2001:db8::/32",), IPV6, True, ("2001:db8::10",)),
        (("198.51.100.0/24",), IPV4, True, ()),
        (("192.0.2.10/24",), IPV4, True, ("192.0.2.10",)),
        (("192.0.2.0/24", "10.0.0.0/8", "fd00::/8"), IPV4, True, ("10.0.0.5", "192.0.2.10")),
        (("127.0.0.0/8", "10.0.0.0/8"), IPV4, True, ("10.0.0.5", "127.0.0.1")),
        (("127.0.0.0/8", "10.0.0.0/8"), IPV4, False, ("10.0.0.5",)),
        (("127.0.0.0/8",), IPV4, False, ()),
        (("::1/128", "fd00::/8"), IPV6, True, ("fd00::5",)),
        (("0.0.0.0/0", "10.0.0.0/8"), IPV4, True, None),
        (("0.0.0.0/0",), IPV4, False, ("10.0.0.5", "192.0.2.10")),
        (("::/0",), IPV6, False, None),
        (("primary",), IPV4, True, ("192.0.2.10",)),
        (("primary",), IPV4, False, ("192.0.2.10",)),
        (("primary",), IPV6, True, ("2001:db8::10",)),
    ],
)
def test_table(cidrs: tuple[str, ...], family: IPFamily, localhost: bool, expected: tuple[str, ...] | None) -> None:
    assert node_port_ips(cidrs, ADDRESSES, family, node_ips=NODE_IPS, localhost=localhost) == expected


def test_a_family_in_which_the_node_has_no_address_of_its_own_is_not_restricted() -> None:
    for node_ips in ((), ("192.0.2.10",), ("192.0.2.10", "::1")):
        assert node_port_ips(["primary"], ADDRESSES, IPV6, node_ips=node_ips, localhost=True) is None


def test_a_primary_address_that_is_on_no_interface_takes_no_node_port() -> None:
    assert node_port_ips(["primary"], ADDRESSES, IPV4, node_ips=["203.0.113.1"], localhost=True) == ()


hosts = st.builds("10.0.0.{}".format, st.integers(0, 15)) | st.sampled_from(("127.0.0.1", "fd00::1"))
cidrs = st.builds("10.0.0.{}/{}".format, st.integers(0, 15), st.integers(28, 32)) | st.just("127.0.0.0/8")


@settings(deadline=None)
@given(st.lists(cidrs, min_size=1), st.lists(hosts), st.booleans())
def test_an_address_is_served_if_a_network_holds_it(cidrs: list[str], addresses: list[str], localhost: bool) -> None:
    ips = node_port_ips(cidrs, addresses, IPV4, localhost=localhost)
    interfaces = [ipaddress.ip_interface(cidr).network for cidr in cidrs]
    assert ips is not None
    assert list(ips) == sorted(
        {
            address
            for address in addresses
            if any(ipaddress.ip_address(address) in network for network in interfaces)
            and (localhost or address != "127.0.0.1")
        }
    )
