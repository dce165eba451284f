import pytest

from tests.portals.conftest import Network
from tests.portals.netlink.test_conntrack import drop_capabilities
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.host import HostAddress, ipv6_usable, may_write_rules, without_address
from userproxy.portals.netlink.rtnetlink import Link


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


def test_links_that_only_send_need_no_address() -> None:
    links = [
        Link(number, kind, is_up=True, is_loopback=False, kind=kind) for number, kind in enumerate(["dummy", "tun"])
    ]
    assert without_address(links, []) == ["tun"]


@pytest.mark.parametrize("family", IPFamily)
def test_links_without_an_address_are_those_that_packets_may_come_in_by(network: Network, family: IPFamily) -> None:
    addresses = {
        IPFamily.IPV4: ("192.0.2.10/24", "192.0.2.11/24", "169.254.7.7/16"),
        IPFamily.IPV6: ("2001:db8::10/64", "2001:db8::11/64", "fe80::7/64"),
    }[family]
    host = HostAddress("", family)
    assert network.run(host.links_without_address) == []
    for name, kind in (("b0", "bridge"), ("off", "bridge")):
        network.shell("ip", "link", "add", name, "type", kind)
    for pair in (("port", "pod1"), ("routed", "pod2")):
        network.shell("ip", "link", "add", pair[0], "type", "veth", "peer", "name", pair[1])
    network.shell("ip", "link", "set", "port", "master", "b0")
    for name in ("b0", "port", "routed"):
        network.shell("ip", "link", "set", name, "up")
    assert network.run(host.links_without_address) == ["b0", "routed"]
    nodad = ["nodad"] if family is IPFamily.IPV6 else []
    network.shell("ip", "address", "add", addresses[0], "dev", "b0", *nodad)
    network.shell("ip", "address", "add", addresses[2], "dev", "routed", "scope", "link", *nodad)
    assert network.run(host.links_without_address) == ["routed"], "link-local ones do not count"
    assert HostAddress("192.0.2.10", IPFamily.IPV4).links_without_address() == [], "nothing is redirected"
    network.shell("ip", "address", "add", addresses[1], "dev", "routed", *nodad)
    assert network.run(host.links_without_address) == []


def test_ipv6_is_usable_unless_it_is_switched_off(network: Network) -> None:
    assert network.run(ipv6_usable)
    network.shell("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    assert not network.run(ipv6_usable)


def test_rules_are_written_with_a_capability_and_not_by_a_user(network: Network) -> None:
    assert network.run(may_write_rules)
    network.run(drop_capabilities)
    assert not network.run(may_write_rules)
    assert may_write_rules(), "another thread has its own"
