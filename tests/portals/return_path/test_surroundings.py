"""Which networks are of this node's Pods."""

import pytest

from userproxy.model import DirectNetwork, LocalTraffic
from userproxy.portals.netlink.rtnetlink import Link
from userproxy.portals.return_path.rules import PodBridge
from userproxy.portals.return_path.surroundings import judged

MAC = bytes.fromhex("02aabbccddee")
UPLINK = Link(2, "eth0", True, False, hardware_address=MAC)
BRIDGE = Link(3, "cbr0", True, False, "bridge", hardware_address=MAC)
POD = Link(4, "cali1", True, False, "veth", hardware_address=MAC)
TUNNEL = Link(5, "wg0", True, False, "wireguard")
ANYTHING = LocalTraffic()


def of_pods(network: str, link: Link, traffic: LocalTraffic = ANYTHING, *, apart: set[int] = frozenset({2})) -> bool:  # type: ignore[assignment]
    (found,) = judged([(network, link)], apart, traffic, [link]).networks
    assert (found.network, found.interface, found.is_bridge) == (network, link.name, link.kind == "bridge")
    assert not found.answers_rise
    return found.of_pods


@pytest.mark.parametrize(
    ("network", "link", "expected"),
    [
        ("10.1.0.0/24", BRIDGE, True),
        ("fd01::/64", BRIDGE, True),
        ("10.1.0.7/32", POD, True),
        ("fd01::7/128", POD, True),
        ("192.0.2.0/24", POD, False),  # other hosts, as in a node that is a container
        ("192.0.2.0/24", UPLINK, False),
        ("10.0.0.0/8", TUNNEL, False),
        ("10.1.0.7/32", TUNNEL, False),
    ],
)
def test_pods_are_behind_bridges_and_behind_links_of_one_address(network: str, link: Link, expected: bool) -> None:
    assert of_pods(network, link) is expected


def test_links_to_other_hosts_have_no_pods() -> None:
    assert not of_pods("10.1.0.0/24", BRIDGE, apart={BRIDGE.number})
    assert not of_pods("10.1.0.7/32", POD, apart={POD.number})


def test_named_networks_leave_others_out() -> None:
    traffic = LocalTraffic(networks=("10.1.0.0/16", "fd01::/48"))
    assert of_pods("10.1.0.0/24", BRIDGE, traffic)
    assert of_pods("fd01::7/128", POD, traffic)
    assert not of_pods("172.17.0.0/16", BRIDGE, traffic)
    assert not of_pods("10.1.0.0/24", BRIDGE, traffic, apart={BRIDGE.number})


def test_a_named_interface_decides() -> None:
    assert of_pods("10.1.0.0/24", BRIDGE, LocalTraffic(interface="cbr0"), apart={BRIDGE.number})
    assert not of_pods("10.1.0.0/24", BRIDGE, LocalTraffic(interface="cbr"))
    assert of_pods("10.1.0.0/24", POD, LocalTraffic(interface="cali+"))
    assert not of_pods("10.1.0.7/32", POD, LocalTraffic(interface="veth+"))


def test_bridges_are_those_of_pods() -> None:
    lan = Link(6, "br0", True, False, "bridge", hardware_address=MAC)
    found = judged([("10.1.0.0/24", BRIDGE), ("192.0.2.0/24", lan)], {lan.number}, ANYTHING, [BRIDGE, lan])
    assert found.bridges == (PodBridge("10.1.0.0/24", MAC),)
    assert [each.of_pods for each in found.networks] == [True, False]


def test_what_is_link_local_is_left_out() -> None:
    assert judged([("fe80::/64", POD), ("169.254.0.0/16", POD)], (), ANYTHING, [POD]).networks == ()


def test_links_of_ebpf_programs_are_an_obstacle() -> None:
    cilium = Link(7, "cilium_host", True, False, "veth")
    assert "Cilium" in judged([], (), ANYTHING, [cilium]).obstacle
    with_routes = judged([("10.1.0.7/32", POD)], (), ANYTHING, [cilium, POD])
    assert with_routes.obstacle == ""
    assert with_routes.networks == (DirectNetwork("10.1.0.7/32", "cali1", of_pods=True),)
    calico = Link(8, "bpfin.cali", True, False, "veth")
    assert "Calico" in judged([("10.1.0.7/32", POD)], (), ANYTHING, [calico, POD]).obstacle
