import pytest

from tests.portals.conftest import Network
from userproxy.errors import KernelToolError
from userproxy.portals.host import HostAddress


def link(network: Network, name: str, address: str) -> None:
    network.shell("ip", "link", "add", name, "type", "bridge")
    network.shell("ip", "address", "add", address, "dev", name)
    network.shell("ip", "link", "set", name, "up")


def test_a_specific_bind_address_is_the_answer() -> None:
    assert HostAddress("192.0.2.77").lookup() == "192.0.2.77"


@pytest.mark.parametrize("bind_address", ["0.0.0.0", "::", ""])
def test_the_address_on_the_default_route(network: Network, bind_address: str) -> None:
    link(network, "a0", "198.51.100.1/24")
    link(network, "b0", "192.0.2.10/24")
    network.shell("ip", "address", "add", "192.0.2.99/24", "dev", "b0")
    network.shell("ip", "route", "add", "default", "via", "198.51.100.2", "metric", "200")
    network.shell("ip", "route", "add", "default", "via", "192.0.2.1", "metric", "100")
    assert network.run(HostAddress(bind_address).lookup) == "192.0.2.10"


def test_the_preferred_source_of_the_route_wins(network: Network) -> None:
    link(network, "b0", "192.0.2.10/24")
    network.shell("ip", "address", "add", "192.0.2.99/24", "dev", "b0")
    network.shell("ip", "route", "add", "default", "via", "192.0.2.1", "src", "192.0.2.99")
    assert network.run(HostAddress("0.0.0.0").lookup) == "192.0.2.99"


def test_a_default_route_with_several_hops(network: Network) -> None:
    link(network, "b0", "192.0.2.10/24")
    hops = ["nexthop", "via", "192.0.2.1", "dev", "b0", "nexthop", "via", "192.0.2.2", "dev", "b0"]
    network.shell("ip", "route", "add", "default", *hops)
    assert network.run(HostAddress("0.0.0.0").lookup) == "192.0.2.10"


def test_without_a_default_route_the_first_address_of_a_link_that_is_up(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    link(network, "a0", "198.51.100.1/24")
    link(network, "b0", "192.0.2.10/24")
    network.shell("ip", "link", "set", "a0", "down")
    host = HostAddress("0.0.0.0")
    assert [network.run(host.lookup) for _ in range(3)] == ["192.0.2.10"] * 3
    assert capsys.readouterr().out.count("No default route") == 1


def test_no_address_at_all_is_one_sentence(network: Network) -> None:
    with pytest.raises(KernelToolError, match="no interface that is up has a global address"):
        network.run(HostAddress("0.0.0.0").lookup)


def test_loopback_and_link_local_addresses_do_not_count(network: Network) -> None:
    network.shell("ip", "address", "add", "203.0.113.1/32", "dev", "lo")
    link(network, "a0", "169.254.1.1/16")
    network.shell("ip", "address", "del", "169.254.1.1/16", "dev", "a0")
    network.shell("ip", "address", "add", "169.254.1.1/16", "dev", "a0", "scope", "link")
    with pytest.raises(KernelToolError):
        network.run(HostAddress("0.0.0.0").lookup)
