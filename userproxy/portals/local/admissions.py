"""Where a service port's portals are listened on, and which clients are let in there. Pure.

The rules of the ``iptables`` driver say the same in their words: who is in which class of traffic, and what a
restricted load-balancer IP keeps out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from userproxy.addresses import family_of, of_family
from userproxy.model import (
    Admission,
    AdmissionRule,
    IPFamily,
    ListenerName,
    Portal,
    PortalAddress,
    PortalBinding,
    PortalKind,
    Target,
    Verdict,
)
from userproxy.routing.source_ranges import allowed_sources, within

_ORDER = {kind: position for position, kind in enumerate(PortalKind)}


def admissions(
    binding: PortalBinding, family: IPFamily, host_ip: str, own_ips: Collection[str], pod_networks: Sequence[str]
) -> Mapping[PortalAddress, Admission]:
    """Who is let in at each portal of `family`; one that refuses everybody is not there.

    A node port without an address is on each of `own_ips`. A range with `host_ip` in it, the node's own address if it
    has one, lets in the node's processes. `pod_networks` are the addresses of this node's own Pods.
    """
    found: dict[PortalAddress, Admission] = {}
    balanced = [portal.ip for portal in binding.portals if portal.kind is PortalKind.LOAD_BALANCER_IP]
    allowed = allowed_sources(binding.source_ranges, balanced, [host_ip] if host_ip else [], family)
    for portal in sorted(binding.portals, key=lambda portal: _ORDER[portal.kind]):
        ranges = allowed if portal.kind is PortalKind.LOAD_BALANCER_IP else ()
        admission = _admission(binding, portal, family, ranges, pod_networks)
        if admission is not None:
            for ip in _ips(portal, family, own_ips):
                found.setdefault(PortalAddress(ip, binding.name.protocol, portal.port), admission)
    return found


def portal_ips(binding: PortalBinding, family: IPFamily) -> frozenset[str]:
    """The addresses of `family` that packets for a service port have, node ports aside."""
    return frozenset(portal.ip for portal in binding.portals if portal.ip and family_of(portal.ip) is family)


def _ips(portal: Portal, family: IPFamily, own_ips: Collection[str]) -> Iterable[str]:
    if portal.ip:
        return (portal.ip,) if family_of(portal.ip) is family else ()
    return sorted(own_ips)


def _admission(
    binding: PortalBinding, portal: Portal, family: IPFamily, ranges: Sequence[str], pod_networks: Sequence[str]
) -> Admission | None:
    if portal.kind is PortalKind.CLUSTER_IP:
        classes = [("", binding.internal)]
        return _made(binding, family, classes, classes)
    host = [(network, binding.on_node) for network in within("", ranges)]
    others = [
        *(
            (network, binding.on_node)
            for pods in of_family(pod_networks, family)
            for network in within("" if pods.endswith("/0") else pods, ranges)
        ),
        *((network, binding.external) for network in within("", ranges)),
    ]
    return _made(binding, family, host, others)


def _made(
    binding: PortalBinding,
    family: IPFamily,
    host: Sequence[tuple[str, Target]],
    others: Sequence[tuple[str, Target]],
) -> Admission | None:
    """None where everybody is refused: nobody listens, and the kernel says so."""
    if all(target.verdict is Verdict.REJECT for _, target in (*host, *others)):
        return None
    return Admission(*(tuple(_rules(binding, family, classes)) for classes in (host, others)))


def _rules(binding: PortalBinding, family: IPFamily, classes: Iterable[tuple[str, Target]]) -> Iterable[AdmissionRule]:
    for network, target in classes:
        serves = target.verdict is Verdict.SERVE
        yield AdmissionRule(network, ListenerName(binding.name, family, target.traffic) if serves else None)
        if not network:
            return
