"""detectLocalMode."""

import pytest

from userproxy.model import IPFamily, LocalTraffic
from userproxy.routing.local_traffic import local_traffic

IPV4, IPV6 = IPFamily
CLUSTER = ("10.244.0.0/16", "fd00:244::/48")
PODS = ("fd00:244:0:1::/64", "10.244.1.0/24", "10.244.2.0/24")


@pytest.mark.parametrize(
    ("mode", "family", "expected"),
    [
        ("ClusterCIDR", IPV4, LocalTraffic(networks=("10.244.0.0/16",))),
        ("ClusterCIDR", IPV6, LocalTraffic(networks=("fd00:244::/48",))),
        ("NodeCIDR", IPV4, LocalTraffic(networks=("10.244.1.0/24",))),
        ("NodeCIDR", IPV6, LocalTraffic(networks=("fd00:244:0:1::/64",))),
        ("BridgeInterface", IPV4, LocalTraffic(interface="cbr0")),
        ("BridgeInterface", IPV6, LocalTraffic(interface="cbr0")),
        ("InterfaceNamePrefix", IPV4, LocalTraffic(interface="veth+")),
        ("InterfaceNamePrefix", IPV6, LocalTraffic(interface="veth+")),
    ],
)
def test_modes(mode: str, family: IPFamily, expected: LocalTraffic) -> None:
    assert local_traffic(mode, CLUSTER, PODS, "cbr0", "veth", family) == expected


@pytest.mark.parametrize("mode", ["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"])
def test_without_what_the_mode_needs_nothing_is_recognised(mode: str) -> None:
    assert local_traffic(mode, (), (), "", "", IPV4) == LocalTraffic()
    assert local_traffic(mode, ("fd00::/8",), ("fd00::/8",), "", "", IPV4) == LocalTraffic()


def test_networks_are_canonical() -> None:
    assert local_traffic("ClusterCIDR", ("10.244.3.7/16",), (), "", "", IPV4) == LocalTraffic(("10.244.0.0/16",))
    assert local_traffic("NodeCIDR", (), ("FD00:0::1/64",), "", "", IPV6) == LocalTraffic(("fd00::/64",))
