"""Who may use load-balancer IPs, beside the standard library's own arithmetic of networks."""

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from userproxy.addresses import IPFamily, family_of
from userproxy.model import BalancerAccess
from userproxy.routing.source_ranges import BalancerRule, allowed_sources

networks = st.one_of(
    st.builds(
        lambda third, fourth, prefix: str(ipaddress.ip_network(f"10.0.{third}.{fourth}/{prefix}", strict=False)),
        st.integers(0, 3),
        st.integers(0, 255),
        st.integers(22, 32),
    ),
    st.builds(
        lambda last, prefix: str(ipaddress.ip_network(f"fd00::{last:x}/{prefix}", strict=False)),
        st.integers(0, 15),
        st.integers(124, 128),
    ),
)
addresses = st.one_of(
    st.builds("10.0.{}.{}".format, st.integers(0, 3), st.integers(0, 255)),
    st.integers(0, 15).map("fd00::{:x}".format).map(lambda text: str(ipaddress.ip_address(text))),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(networks | st.sampled_from(("0.0.0.0/0", "::/0")), max_size=3) | st.lists(networks, max_size=4),
    st.lists(addresses, max_size=2),
    st.lists(addresses, max_size=2),
    st.sampled_from(IPFamily),
    addresses,
)
def test_who_may_use_the_load_balancer(
    ranges: list[str], node_ips: list[str], balancer_ips: list[str], family: IPFamily, source: str
) -> None:
    allowed = allowed_sources(ranges, balancer_ips, node_ips, family)

    version = 4 if family is IPFamily.IPV4 else 6
    mine = [network for network in map(ipaddress.ip_network, ranges) if network.version == version]

    def within(text: str) -> bool:
        return any(ipaddress.ip_address(text) in network for network in mine)

    unrestricted = not mine or any(network.prefixlen == 0 for network in mine)
    for probe in (source, *balancer_ips, *node_ips):
        if ipaddress.ip_address(probe).version == version:
            expected = unrestricted or within(probe) or (probe in balancer_ips and any(map(within, node_ips)))
            admitted = any(ipaddress.ip_address(probe) in ipaddress.ip_network(network) for network in allowed)
            assert (not allowed or admitted) == expected
    assert list(allowed) == sorted(set(allowed))
    assert all(ipaddress.ip_network(network).version == version for network in allowed)


@settings(max_examples=300, deadline=None)
@given(st.lists(networks, max_size=3), st.lists(addresses, max_size=2), addresses, st.lists(addresses, max_size=2))
def test_whom_a_header_names_may_use_the_load_balancer_as_whom_the_rules_see(
    ranges: list[str], balancer_ips: list[str], client: str, dialled: list[str]
) -> None:
    rule = BalancerRule(BalancerAccess(tuple(balancer_ips), tuple(ranges)))
    allowed = allowed_sources(ranges, (), (), family_of(client))
    is_allowed = not allowed or any(ipaddress.ip_address(client) in ipaddress.ip_network(each) for each in allowed)
    assert rule.admits(client, dialled) is (is_allowed or not set(balancer_ips) & set(dialled))
