import pytest

from tests.portals.conftest import Network
from tests.portals.netlink.test_conntrack import drop_capabilities
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.host import HostAddress, ipv6_usable, may_write_rules


def link(network: Network, name: str, address: str) -> None:
    network.shell("ip", "link", "add", name, "type", "bridge")
    network.shell("ip", "address", "add", address, "dev", name)
    network.shell("ip", "link", "set", name, "up")


def test_a_specific_bind_address_is_the_answer() -> None:
    assert HostAddress("192.0.2.77", IPFamily.IPV4).lookup() == "192.0.2.77"


@pytest.mark.parametrize("bind_address", ["0.0.0.0", "::", ""])
def test_the_address_on_the_default_route(network: Network, bind_address: str) -> None:
    link(network, "a0", "198.51.100.1/24")
    link(network, "b0", "192.0.2.10/24")
    network.shell("ip", "address", "add", "192.0.2.99/24", "dev", "b0")
    network.shell("ip", "route", "add", "default", "via", "198.51.100.2", "metric", "200")
    network.shell("ip", "route", "add", "default", "via", "192.0.2.1", "metric", "100")
    assert network.run(HostAddress(bind_address, IPFamily.IPV4).lookup) == "192.0.2.10"


def test_the_preferred_source_of_the_route_wins(network: Network) -> None:
    link(network, "b0", "192.0.2.10/24")
    network.shell("ip", "address", "add", "192.0.2.99/24", "dev", "b0")
    network.shell("ip", "route", "add", "default", "via", "192.0.2.1", "src", "192.0.2.99")
    assert network.run(HostAddress("0.0.0.0", IPFamily.IPV4).lookup) == "192.0.2.99"


def test_a_default_route_with_several_hops(network: Network) -> None:
    link(network, "b0", "192.0.2.10/24")
    hops = ["nexthop", "via", "192.0.2.1", "dev", "b0", "nexthop", "via", "192.0.2.2", "dev", "b0"]
    network.shell("ip", "route", "add", "default", *hops)
    assert network.run(HostAddress("0.0.0.0", IPFamily.IPV4).lookup) == "192.0.2.10"


def test_without_a_default_route_the_first_address_of_a_link_that_is_up(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    link(network, "a0", "198.51.100.1/24")
    link(network, "b0", "192.0.2.10/24")
    network.shell("ip", "link", "set", "a0", "down")
    host = HostAddress("0.0.0.0", IPFamily.IPV4)
    assert [network.run(host.lookup) for _ in range(3)] == ["192.0.2.10"] * 3
    assert capsys.readouterr().out.count("No default route") == 1


def test_no_address_at_all_is_one_sentence(network: Network) -> None:
    with pytest.raises(KernelToolError, match="no interface that is up has a global IPv4 address"):
        network.run(HostAddress("0.0.0.0", IPFamily.IPV4).lookup)


def test_loopback_and_link_local_addresses_do_not_count(network: Network) -> None:
    network.shell("ip", "address", "add", "203.0.113.1/32", "dev", "lo")
    link(network, "a0", "169.254.1.1/16")
    network.shell("ip", "address", "del", "169.254.1.1/16", "dev", "a0")
    network.shell("ip", "address", "add", "169.254.1.1/16", "dev", "a0", "scope", "link")
    with pytest.raises(KernelToolError):
        network.run(HostAddress("0.0.0.0", IPFamily.IPV4).lookup)


def test_ipv6_has_its_own_route_and_addresses(network: Network) -> None:
    link(network, "b0", "192.0.2.10/24")
    for address in ("2001:db8::10/64", "2001:db8::99/64"):
        network.shell("ip", "address", "add", address, "dev", "b0", "nodad")
    network.shell("ip", "route", "add", "default", "via", "192.0.2.1")
    network.shell("ip", "route", "add", "default", "via", "2001:db8::1", "src", "2001:db8::10")
    assert network.run(HostAddress("::", IPFamily.IPV6).lookup) == "2001:db8::10"
    assert network.run(HostAddress("0.0.0.0", IPFamily.IPV6).lookup) == "2001:db8::10"


def test_addresses_are_those_of_every_interface_and_of_the_family(network: Network) -> None:
    link(network, "b0", "192.0.2.10/24")
    network.shell("ip", "address", "add", "203.0.113.1/32", "dev", "lo")
    network.shell("ip", "address", "add", "2001:db8::10/64", "dev", "b0", "nodad")
    network.shell("ip", "address", "add", "192.0.2.5", "peer", "198.51.100.1", "dev", "b0")
    ipv4, ipv6 = (HostAddress("", family) for family in IPFamily)
    assert network.run(ipv4.addresses) == {"127.0.0.1", "192.0.2.10", "203.0.113.1", "192.0.2.5"}
    found = network.run(ipv6.addresses)
    assert {"::1", "2001:db8::10"} == {address for address in found if not address.startswith("fe80:")}
    network.shell("ip", "address", "del", "203.0.113.1/32", "dev", "lo")
    assert "203.0.113.1" not in network.run(ipv4.addresses)


def test_ipv6_is_usable_unless_it_is_switched_off(network: Network) -> None:
    assert network.run(ipv6_usable)
    network.shell("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    assert not network.run(ipv6_usable)


def test_rules_are_written_with_a_capability_and_not_by_a_user(network: Network) -> None:
    assert network.run(may_write_rules)
    network.run(drop_capabilities)
    assert not network.run(may_write_rules)
    assert may_write_rules(), "another thread has its own"
