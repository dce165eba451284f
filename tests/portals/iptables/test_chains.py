"""The jumps to our chains."""

from userproxy.portals.iptables.chains import CHAINS, jump_rules


def test_jumps_are_inserted_before_portals_and_appended_after() -> None:
    assert [(jump.rule.chain, jump.target, jump.first) for jump in jump_rules()] == [
        ("PREROUTING", "KUBE-PORTALS-CONTAINER", True),
        ("OUTPUT", "KUBE-PORTALS-HOST", True),
        ("PREROUTING", "KUBE-NODEPORT-CONTAINER", False),
        ("OUTPUT", "KUBE-NODEPORT-HOST", False),
        ("INPUT", "KUBE-PORTALS-FILTER", True),
        ("INPUT", "KUBE-NODEPORT-NON-LOCAL", True),
        ("FORWARD", "KUBE-PORTALS-FILTER", True),
        ("OUTPUT", "KUBE-PORTALS-FILTER-HOST", True),
    ]
    assert {jump.target for jump in jump_rules()} == {chain for chains in CHAINS.values() for chain in chains}
