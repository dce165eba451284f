import pytest

from tests.portals.examples import WEB, WEB_NAME, WEB_RULES
from userproxy.errors import ObjectError
from userproxy.model import Portal, PortalBinding, PortalKind, Protocol, ServicePortName
from userproxy.portals.rules import CHAINS, Rule, jump_rules, portal_rules


def test_the_worked_example() -> None:
    made: dict[str, dict[str, list[str]]] = {"nat": {}, "filter": {}}
    for rule in [jump.rule for jump in jump_rules()] + list(portal_rules(WEB, "0.0.0.0", "192.0.2.10")):
        made[rule.table].setdefault(rule.chain, []).append(rule.spec)
    assert made == WEB_RULES


def test_jumps_are_inserted_before_portals_and_appended_after() -> None:
    assert [(jump.rule.chain, jump.target, jump.first) for jump in jump_rules()] == [
        ("PREROUTING", "KUBE-PORTALS-CONTAINER", True),
        ("OUTPUT", "KUBE-PORTALS-HOST", True),
        ("PREROUTING", "KUBE-NODEPORT-CONTAINER", False),
        ("OUTPUT", "KUBE-NODEPORT-HOST", False),
        ("INPUT", "KUBE-NODEPORT-NON-LOCAL", True),
    ]
    assert {jump.target for jump in jump_rules()} == {chain for chains in CHAINS.values() for chain in chains}


@pytest.mark.parametrize(
    ("portal", "chain", "spec"),
    [
        (
            Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.7", 53),
            "KUBE-PORTALS-CONTAINER",
            '-d 198.51.100.7/32 -p udp -m comment --comment "kube-system/dns" -m udp --dport 53'
            " -j DNAT --to-destination 192.0.2.11:5000",
        ),
        (
            Portal(PortalKind.EXTERNAL_IP, "198.51.100.7", 53),
            "KUBE-PORTALS-HOST",
            '-d 198.51.100.7/32 -p udp -m comment --comment "kube-system/dns" -m udp --dport 53'
            " -m addrtype --dst-type LOCAL -j DNAT --to-destination 192.0.2.11:5000",
        ),
        (
            Portal(PortalKind.NODE_PORT, "", 30053),
            "KUBE-NODEPORT-CONTAINER",
            '-p udp -m comment --comment "kube-system/dns" -m udp --dport 30053'
            " -j DNAT --to-destination 192.0.2.11:5000",
        ),
    ],
)
def test_a_specific_bind_address_is_led_to_by_dnat(portal: Portal, chain: str, spec: str) -> None:
    name = ServicePortName("kube-system", "dns", "", Protocol.UDP)
    rules = portal_rules(PortalBinding(name, 5000, (portal,)), "192.0.2.11", "192.0.2.11")
    assert Rule("nat", chain, spec) in rules


def test_ipv6_portals_have_a_long_mask_and_brackets() -> None:
    portals = (Portal(PortalKind.CLUSTER_IP, "fd00::10", 80), Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80))
    specs = [rule.spec for rule in portal_rules(PortalBinding(WEB_NAME, 41234, portals), "::", "2001:db8::1")]
    assert specs == [
        '-d fd00::10/128 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80 -j REDIRECT --to-ports 41234',
        '-d fd00::10/128 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80'
        " -j DNAT --to-destination [2001:db8::1]:41234",
    ]


def test_portals_of_the_other_family_have_no_rules() -> None:
    portals = (Portal(PortalKind.CLUSTER_IP, "fd00::10", 80),)
    assert portal_rules(PortalBinding(WEB_NAME, 41234, portals), "0.0.0.0", "192.0.2.10") == ()


def test_rules_come_in_the_order_of_opening_whatever_the_order_of_the_portals() -> None:
    reversed_portals = PortalBinding(WEB.name, WEB.local_port, WEB.portals[::-1])
    assert portal_rules(reversed_portals, "0.0.0.0", "192.0.2.10") == portal_rules(WEB, "0.0.0.0", "192.0.2.10")


@pytest.mark.parametrize("bad", ['a"b', "a b", "a\nCOMMIT", "a\\", ""])
def test_a_name_that_could_end_a_rule_is_refused(bad: str) -> None:
    name = ServicePortName("default", "web", "http", Protocol.TCP)
    binding = PortalBinding(
        ServicePortName(f"default{bad}" if bad else "dé", name.name, "", name.protocol), 1, WEB.portals
    )
    with pytest.raises(ObjectError, match="cannot be the comment"):
        portal_rules(binding, "0.0.0.0", "192.0.2.10")
