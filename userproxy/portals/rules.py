"""The classic mode's chains and rules, as the text that iptables-save prints for them.

Pure. Source of chains, comments, order and targets: kube-proxy 1.25, ``pkg/proxy/userspace/proxier.go``.
The text is canonical, so a rule is in the kernel when its text is a line of iptables-save.
"""

import re
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct

from userproxy.errors import ObjectError
from userproxy.model import Portal, PortalBinding, PortalKind

NAT = "nat"
FILTER = "filter"

PORTALS_CONTAINER = "KUBE-PORTALS-CONTAINER"
PORTALS_HOST = "KUBE-PORTALS-HOST"
NODEPORT_CONTAINER = "KUBE-NODEPORT-CONTAINER"
NODEPORT_HOST = "KUBE-NODEPORT-HOST"
NODEPORT_NON_LOCAL = "KUBE-NODEPORT-NON-LOCAL"

CHAINS = MappingProxyType(
    {
        NAT: (PORTALS_CONTAINER, PORTALS_HOST, NODEPORT_CONTAINER, NODEPORT_HOST),
        FILTER: (NODEPORT_NON_LOCAL,),
    }
)
"""Our chains by table."""

_LOCAL = "-m addrtype --dst-type LOCAL"
_NOT_BRIDGED = "-m physdev ! --physdev-is-in"
_UNSPECIFIED = frozenset({"", "0.0.0.0", "::"})
_ORDER = {kind: position for position, kind in enumerate(PortalKind)}
# What the Kubernetes API allows in names, and more; no quote, no space, nothing that ends a line.
_NAME = re.compile(r"[A-Za-z0-9._:/-]+")


class Family(StrEnum):
    """Address family of a set of tables; the value is the stem of its programs' names."""

    IPV4 = "iptables"
    IPV6 = "ip6tables"


class Rule(Struct, frozen=True):
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
    """The five jumps, in the order in which kube-proxy makes them.

    Portals come before node ports: node port rules match every local address, and some clouds install
    a load balancer's address as a local one.
    """
    portals = '-m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules"'
    node_ports = (
        f'{_LOCAL} -m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the chain"'
    )
    non_local = '-m comment --comment "Ensure that non-local NodePort traffic can flow"'
    return (
        _jump(NAT, "PREROUTING", portals, PORTALS_CONTAINER, first=True),
        _jump(NAT, "OUTPUT", portals, PORTALS_HOST, first=True),
        _jump(NAT, "PREROUTING", node_ports, NODEPORT_CONTAINER, first=False),
        _jump(NAT, "OUTPUT", node_ports, NODEPORT_HOST, first=False),
        _jump(FILTER, "INPUT", non_local, NODEPORT_NON_LOCAL, first=True),
    )


def portal_rules(binding: PortalBinding, bind_address: str, host_ip: str) -> tuple[Rule, ...]:
    """The rules that lead a service port's portals to its listener, in kube-proxy's order.

    `bind_address` is where listeners are bound, `host_ip` the address that reaches them from the node
    itself: DNAT in OUTPUT cannot use loopback. Portals of the other address family have no rules here.
    Raises ObjectError where the name cannot stand in a rule.
    """
    portals = sorted(binding.portals, key=lambda portal: _ORDER[portal.kind])
    return tuple(
        rule
        for portal in portals
        if not portal.ip or (":" in portal.ip) == (":" in host_ip)
        for rule in _rules(binding, portal, bind_address, host_ip)
    )


def _rules(binding: PortalBinding, portal: Portal, bind_address: str, host_ip: str) -> tuple[Rule, ...]:
    port = binding.local_port
    to_host = f"-j DNAT --to-destination {_socket(host_ip, port)}"
    redirect = (
        f"-j REDIRECT --to-ports {port}"
        if bind_address in _UNSPECIFIED
        else f"-j DNAT --to-destination {_socket(bind_address, port)}"
    )
    prefix = _prefix(binding, portal.ip, portal.port)
    match portal.kind:
        case PortalKind.NODE_PORT:
            accept = f"{_prefix(binding, '', port)} -m state --state NEW -j ACCEPT"
            return (
                Rule(NAT, NODEPORT_CONTAINER, f"{prefix} {redirect}"),
                Rule(NAT, NODEPORT_HOST, f"{prefix} {to_host}"),
                Rule(FILTER, NODEPORT_NON_LOCAL, accept),
            )
        case PortalKind.EXTERNAL_IP:
            return (
                Rule(NAT, PORTALS_CONTAINER, f"{prefix} {_NOT_BRIDGED} {redirect}"),
                Rule(NAT, PORTALS_CONTAINER, f"{prefix} {_LOCAL} {redirect}"),
                Rule(NAT, PORTALS_HOST, f"{prefix} {_LOCAL} {to_host}"),
            )
        case _:
            return (
                Rule(NAT, PORTALS_CONTAINER, f"{prefix} {redirect}"),
                Rule(NAT, PORTALS_HOST, f"{prefix} {to_host}"),
            )


def _prefix(binding: PortalBinding, ip: str, port: int) -> str:
    name = str(binding.name)
    if not _NAME.fullmatch(name):
        raise ObjectError(f"service port {name!r}: its name cannot be the comment of an iptables rule")
    protocol = binding.name.protocol.lower()
    destination = f"-d {ip}/{128 if ':' in ip else 32} " if ip else ""
    return f'{destination}-p {protocol} -m comment --comment "{name}" -m {protocol} --dport {port}'


def _jump(table: str, chain: str, match: str, target: str, *, first: bool) -> JumpRule:
    return JumpRule(Rule(table, chain, f"{match} -j {target}"), target, first)


def _socket(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
