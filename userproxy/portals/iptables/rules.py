"""What a service port's rules are, as iptables-save prints them: REDIRECT or DNAT for each portal, REJECT or DROP.

Pure. Source of chains, comments, order and targets of what is served: kube-proxy 1.25,
``pkg/proxy/userspace/proxier.go``; of what is refused or dropped: kube-proxy 1.36, ``pkg/proxy/iptables/proxier.go``.
The text is canonical, so a rule is in the kernel when its text is a line of iptables-save.

What is served is translated in nat, before filter sees it. So a rule of filter on a portal's own address and port
meets only what nat left alone. The chains of filter are two for the reason that those of nat are: a process of the
host is led differently from everybody else, and what cannot be told apart in OUTPUT must not be refused there.
"""

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from userproxy.addresses import IPFamily, family_of, host_and_port, network_of
from userproxy.errors import ObjectError
from userproxy.model import LocalTraffic, Portal, PortalBinding, PortalKind, Protocol, Target, Verdict, local_ports_of
from userproxy.portals.iptables.chains import (
    FILTER,
    NAT,
    NODEPORT_CONTAINER,
    NODEPORT_HOST,
    NODEPORT_NON_LOCAL,
    PORTALS_CONTAINER,
    PORTALS_FILTER,
    PORTALS_FILTER_HOST,
    PORTALS_HOST,
    TO_LOCAL,
    Rule,
)
from userproxy.routing.source_ranges import allowed_sources, within

_UNSPECIFIED = frozenset({"", "0.0.0.0", "::"})
_ORDER = {kind: position for position, kind in enumerate(PortalKind)}
_ABSENT = {Verdict.REJECT: "has no endpoints", Verdict.DROP: "has no local endpoints"}
# What the Kubernetes API allows in names, and more; no quote, no space, nothing that ends a line.
_NAME = re.compile(r"[A-Za-z0-9._:/-]+")


class _Source(Struct, frozen=True):
    """Whose packets a rule takes: from a network, arriving at an interface; all if both are empty."""

    network: str = ""
    interface: str = ""


_EVERYBODY = _Source()


class _Node(Struct, frozen=True):
    """What the rules of all bindings have in common."""

    bind_address: str
    host_ip: str
    local_traffic: LocalTraffic
    redirects: bool

    @property
    def family(self) -> IPFamily:
        return family_of(self.host_ip)

    def has(self, address: str) -> bool:
        """Whether `address`, or network, is of the node's family."""
        return family_of(address) is self.family


class _Streams(Struct, frozen=True):
    """One portal's traffic in the order in which rules have to tell it apart; what is in none is dropped."""

    container: tuple[tuple[_Source, Target], ...]
    host: tuple[tuple[_Source, Target], ...]


def portal_rules(
    binding: PortalBinding,
    bind_address: str,
    host_ip: str,
    local_traffic: LocalTraffic,
    *,
    redirects: bool = True,
) -> tuple[Rule, ...]:
    """The rules that lead a service port's portals to its listeners or refuse them, in kube-proxy's order.

    `bind_address` is where listeners are bound, `host_ip` the address that reaches them from the node
    itself: DNAT in OUTPUT cannot use loopback. Unless REDIRECT reaches the listeners from each interface (`redirects`),
    all packets are led to that address. Portals and networks of the other address family have no rules here.
    Raises ObjectError where the name cannot stand in a rule.
    """
    node = _Node(bind_address, host_ip, local_traffic, redirects)
    balancer_ips = [portal.ip for portal in binding.portals if portal.kind is PortalKind.LOAD_BALANCER_IP]
    ranges = allowed_sources(binding.source_ranges, balancer_ips, [host_ip], node.family)
    rules: list[Rule] = []
    for portal in sorted(binding.portals, key=lambda portal: _ORDER[portal.kind]):
        if not portal.ip or node.has(portal.ip):
            restricted = ranges if portal.kind is PortalKind.LOAD_BALANCER_IP else ()
            streams = _streams(binding, portal, restricted, node)
            rules += _served(binding, portal, streams, node)
            rules += _refused(binding, portal, streams, node, outsiders=bool(restricted))
    if binding.name.protocol is Protocol.UDP:
        rules += _direct_datagrams(binding, node)
    if binding.health_check_port:
        rules.append(_health_check(binding))
    return tuple(dict.fromkeys(rules))


def _streams(binding: PortalBinding, portal: Portal, ranges: Sequence[str], node: _Node) -> _Streams:
    if portal.kind is PortalKind.CLUSTER_IP:
        everybody = ((_EVERYBODY, binding.internal),)
        return _Streams(everybody, everybody)
    of_node = _local_sources(node) if not binding.on_node.is_like(binding.external) else []
    container = [
        *((source, binding.on_node) for local in of_node for source in _within(local, ranges)),
        *((source, binding.external) for source in _within(_EVERYBODY, ranges)),
    ]
    return _Streams(tuple(container), tuple((source, binding.on_node) for source in _within(_EVERYBODY, ranges)))


def _served(binding: PortalBinding, portal: Portal, streams: _Streams, node: _Node) -> list[Rule]:
    container, host = (
        (NODEPORT_CONTAINER, NODEPORT_HOST)
        if portal.kind is PortalKind.NODE_PORT
        else (PORTALS_CONTAINER, PORTALS_HOST)
    )
    rules = [
        *_translations(container, binding, portal, streams.container, node),
        *_translations(host, binding, portal, streams.host, node),
    ]
    if portal.kind is PortalKind.NODE_PORT:
        for port in local_ports_of([binding.external, binding.on_node]):
            accept = f"{_match(binding, '', port)} -m state --state NEW -j ACCEPT"
            rules.append(Rule(FILTER, NODEPORT_NON_LOCAL, accept))
    return rules


def _translations(
    chain: str,
    binding: PortalBinding,
    portal: Portal,
    streams: Sequence[tuple[_Source, Target]],
    node: _Node,
) -> Iterable[Rule]:
    translate = _to_host if chain in {PORTALS_HOST, NODEPORT_HOST} else _to_listener
    for place, (source, target) in enumerate(streams):
        if target.verdict is Verdict.SERVE:
            goal = translate(target.local_port, node)
        elif any(later.verdict is Verdict.SERVE for _, later in streams[place:]):
            # No later rule is to translate what filter has to refuse.
            goal = "-j ACCEPT"
        else:
            continue
        yield Rule(NAT, chain, f"{_match(binding, portal.ip, portal.port, source)} {goal}")


def _refused(
    binding: PortalBinding, portal: Portal, streams: _Streams, node: _Node, *, outsiders: bool
) -> Iterable[Rule]:
    local = f" {TO_LOCAL}" if portal.kind is PortalKind.NODE_PORT and not portal.ip else ""
    for chain, sources in ((PORTALS_FILTER, streams.container), (PORTALS_FILTER_HOST, streams.host)):
        for source, target in sources:
            if target.verdict is not Verdict.SERVE:
                said = _match(binding, portal.ip, portal.port, source, _ABSENT[target.verdict])
                refusal = _refusal(target.verdict, binding.name.protocol, node)
                yield Rule(FILTER, chain, f"{said}{local} {refusal}")
        if outsiders:
            said = _match(binding, portal.ip, portal.port, remark="traffic from outside loadBalancerSourceRanges")
            yield Rule(FILTER, chain, f"{said} -j DROP")


def _direct_datagrams(binding: PortalBinding, node: _Node) -> Iterable[Rule]:
    """Rules that refuse datagrams to a local port which were not translated: a UDP socket cannot see that itself.

    Packets of the host to itself pass INPUT, too. What is refused leaves no conntrack entry, so every datagram is
    looked at. On addresses where we do not listen the port may be another program's.
    """
    ours = "" if node.bind_address in _UNSPECIFIED else node.bind_address
    for port in local_ports_of([binding.internal, binding.external, binding.on_node]):
        said = _match(binding, ours, port, remark="not through a portal")
        untranslated = f"{TO_LOCAL} -m conntrack ! --ctstate DNAT"
        yield Rule(FILTER, PORTALS_FILTER, f"{said} {untranslated} {_refusal(Verdict.REJECT, Protocol.UDP, node)}")


def _health_check(binding: PortalBinding) -> Rule:
    comment = f'-m comment --comment "{_checked(str(binding.name.service))} health check node port"'
    spec = f"-p tcp {comment} -m tcp --dport {binding.health_check_port} -j ACCEPT"
    return Rule(FILTER, NODEPORT_NON_LOCAL, spec)


def _local_sources(node: _Node) -> list[_Source]:
    traffic = node.local_traffic
    # iptables-save does not print a network that is everything.
    found = [_Source("" if each.endswith("/0") else each) for each in traffic.networks if node.has(each)]
    return [*found, _Source(interface=traffic.interface)] if traffic.interface else found


def _within(source: _Source, ranges: Sequence[str]) -> list[_Source]:
    """The parts of `source` that lie in `ranges`, all of it if there are none."""
    return [_Source(network, source.interface) for network in within(source.network, ranges)]


def _to_listener(port: int, node: _Node) -> str:
    """What sends a packet that came in by an interface to our listener.

    REDIRECT sends it to the first address of that interface, and drops it where there is none.
    """
    if node.bind_address not in _UNSPECIFIED:
        return f"-j DNAT --to-destination {host_and_port(node.bind_address, port)}"
    return f"-j REDIRECT --to-ports {port}" if node.redirects else _to_host(port, node)


def _to_host(port: int, node: _Node) -> str:
    return f"-j DNAT --to-destination {host_and_port(node.host_ip, port)}"


def _refusal(verdict: Verdict, protocol: Protocol, node: _Node) -> str:
    """kube-proxy answers TCP with ICMP, too, which comes late or not at all.

    The kernel sends a client six such errors and then one a second (icmp(7), icmp_ratelimit), and a process of the node
    hears of one only after its second SYN, because connect(2) has the socket locked while it sends the first.
    """
    if verdict is Verdict.DROP:
        return "-j DROP"
    if protocol is Protocol.TCP:
        return "-j REJECT --reject-with tcp-reset"
    return f"-j REJECT --reject-with {'icmp6' if node.family is IPFamily.IPV6 else 'icmp'}-port-unreachable"


def _match(binding: PortalBinding, ip: str, port: int, source: _Source = _EVERYBODY, remark: str = "") -> str:
    protocol = binding.name.protocol.lower()
    basics = [
        f"-s {source.network} " if source.network else "",
        f"-d {network_of(ip)} " if ip else "",
        f"-i {source.interface} " if source.interface else "",
    ]
    comment = f"{_checked(str(binding.name))} {remark}" if remark else _checked(str(binding.name))
    return f'{"".join(basics)}-p {protocol} -m comment --comment "{comment}" -m {protocol} --dport {port}'


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ObjectError(f"service port {name!r}: its name cannot be the comment of an iptables rule")
    return name
