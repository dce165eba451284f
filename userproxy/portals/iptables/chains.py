"""Our chains, and the rules of the kernel's own chains that lead to them, as iptables-save prints them. Pure.

Source of chains, comments and order: kube-proxy 1.25, ``pkg/proxy/userspace/proxier.go``; those of filter that refuse
are our own.
"""

from types import MappingProxyType
from typing import Final

from msgspec import Struct

NAT = "nat"
FILTER = "filter"

PORTALS_CONTAINER = "KUBE-PORTALS-CONTAINER"
PORTALS_HOST = "KUBE-PORTALS-HOST"
NODEPORT_CONTAINER = "KUBE-NODEPORT-CONTAINER"
NODEPORT_HOST = "KUBE-NODEPORT-HOST"
NODEPORT_NON_LOCAL = "KUBE-NODEPORT-NON-LOCAL"
PORTALS_FILTER = "KUBE-PORTALS-FILTER"
PORTALS_FILTER_HOST = "KUBE-PORTALS-FILTER-HOST"
PROBE = "KUBE-PORTALS-PROBE"
"""A chain of the filter table in which a rule is tried. It stands for no longer than that takes."""

CHAINS = MappingProxyType(
    {
        NAT: (PORTALS_CONTAINER, PORTALS_HOST, NODEPORT_CONTAINER, NODEPORT_HOST),
        FILTER: (NODEPORT_NON_LOCAL, PORTALS_FILTER, PORTALS_FILTER_HOST),
    }
)
"""Our chains by table."""

TO_LOCAL: Final = "-m addrtype --dst-type LOCAL"
"""Matches packets to an address of this node."""


class Rule(Struct, frozen=True, gc=False):
    """One rule of one of our chains. ``spec`` is what iptables-save prints after ``-A CHAIN``."""

    table: str
    chain: str
    spec: str


class JumpRule(Struct, frozen=True):
    """A rule of a built-in chain that leads to ours: inserted `first`, or appended."""

    rule: Rule
    target: str
    first: bool


def jump_rules() -> tuple[JumpRule, ...]:
    """The eight jumps; those that are inserted first into one chain stand there in this order.

    Portals come before node ports: node port rules match every local address, and some clouds install
    a load balancer's address as a local one. What is refused is refused before node ports are let in.
    """
    portals = '-m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules"'
    node_ports = (
        f'{TO_LOCAL} -m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the chain"'
    )
    non_local = '-m comment --comment "Ensure that non-local NodePort traffic can flow"'
    refused = '-m conntrack --ctstate NEW -m comment --comment "refuse portal traffic that is not served"'
    return (
        _jump(NAT, "PREROUTING", portals, PORTALS_CONTAINER, first=True),
        _jump(NAT, "OUTPUT", portals, PORTALS_HOST, first=True),
        _jump(NAT, "PREROUTING", node_ports, NODEPORT_CONTAINER, first=False),
        _jump(NAT, "OUTPUT", node_ports, NODEPORT_HOST, first=False),
        _jump(FILTER, "INPUT", refused, PORTALS_FILTER, first=True),
        _jump(FILTER, "INPUT", non_local, NODEPORT_NON_LOCAL, first=True),
        _jump(FILTER, "FORWARD", refused, PORTALS_FILTER, first=True),
        _jump(FILTER, "OUTPUT", refused, PORTALS_FILTER_HOST, first=True),
    )


def _jump(table: str, chain: str, match: str, target: str, *, first: bool) -> JumpRule:
    return JumpRule(Rule(table, chain, f"{match} -j {target}"), target, first)
