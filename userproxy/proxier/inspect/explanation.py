"""What becomes of a client's next connection to a service port, and why, up to the choice of an endpoint. Pure.

It is found out from what the portal driver has confirmed and what the data plane has been told, not from what is
wanted: so it says what happens now.
"""

from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address, ip_network

from msgspec import Struct

from userproxy.addresses import IPFamily, family_of, host_and_port
from userproxy.model import (
    Endpoint,
    ListenerName,
    Portal,
    PortalBinding,
    PortalKind,
    ServicePort,
    ServicePortName,
    ServiceState,
    Snapshot,
    Target,
    TrafficClass,
    Verdict,
)
from userproxy.portals.interface import Traits
from userproxy.proxier.inspect.reports import EndpointReport, route_reports
from userproxy.routing.selection import Locality
from userproxy.routing.source_ranges import allowed_sources


class Surroundings(Struct, frozen=True):
    """What tells clients apart: the node's own addresses, the networks of its Pods, and where traffic of its processes
    comes from."""

    addresses: frozenset[str] = frozenset()
    pod_networks: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()


class Programmed(Struct, frozen=True):
    """What there is of a service port.

    `portals` are those it claims, with one for each address of a node port that is not on all. `needed` is what the
    driver is to have, `confirmed` what it has. `unserved` says of portals why they are not needed, `refused` what the
    driver has said against the service port. `snapshots` are what the data plane has been told.
    """

    port: ServicePort
    state: ServiceState
    portals: tuple[Portal, ...]
    needed: PortalBinding | None
    confirmed: PortalBinding | None
    unserved: Mapping[Portal, str]
    refused: str
    snapshots: Mapping[ListenerName, Snapshot]
    locality: Locality
    driver: str
    traits: Traits


class Explanation(Struct, frozen=True):
    """What a client's next connection meets.

    `traffic` is the class that the client's traffic to this portal is in. `policy` is the field of the Service that
    decides who serves it, `is_local` whether its list is that of this node's endpoints. `listener` chooses among the
    usable ones of `endpoints`, and is None unless the verdict is SERVE. `is_held` is whether the client waits for one.
    """

    name: ServicePortName
    family: IPFamily
    driver: str
    portal: Portal
    traffic: TrafficClass
    policy: str
    is_local: bool
    verdict: Verdict
    reason: str
    listener: ListenerName | None
    endpoints: tuple[EndpointReport, ...]
    is_held: bool = False


def explain(there: Programmed, client: str, portal: Portal, node: Surroundings) -> Explanation:
    """What becomes of `client`, an address, at one of the service port's portals."""
    traffic = traffic_class(portal, client, node)
    route = _route_of(there.port, traffic)
    index = [each.traffic for each in there.port.routes].index(route)
    verdict, reason = _fate(there, client, portal, traffic, node)
    local = there.state.service.internal_local is (index == 0)  # the second route has the list that the first has not
    listener = there.port.listeners[index]
    reports = route_reports(there.port, there.state, there.locality, there.snapshots, index)
    return Explanation(
        there.port.name,
        there.port.family,
        there.driver,
        portal,
        traffic,
        _policy(there.state, portal, traffic),
        local,
        verdict,
        reason or _about_list(reports, local=local),
        listener if verdict is Verdict.SERVE else None,
        reports,
        is_held=verdict is Verdict.SERVE and _holds(there.snapshots.get(listener)),
    )


def _holds(snapshot: Snapshot | None) -> bool:
    return snapshot is not None and snapshot.hold is not None


def traffic_class(portal: Portal, client: str, node: Surroundings) -> TrafficClass:
    """Whose traffic that of a client to a portal is."""
    if portal.kind is PortalKind.CLUSTER_IP:
        return TrafficClass.INTERNAL
    address = ip_address(client)
    family = family_of(client)
    ours = client in node.addresses or address.is_loopback
    pods = (ip_network(each) for each in node.pod_networks if family_of(each) is family)
    return TrafficClass.ON_NODE if ours or any(address in each for each in pods) else TrafficClass.EXTERNAL


def find_portal(portals: Sequence[Portal], destination: Endpoint | None, addresses: Collection[str]) -> Portal | None:
    """The portal that packets to a destination reach; None if that is none of `portals`.

    Without a destination it is the first, which is the cluster IP. Port 0 is any port. A node port is at each of the
    node's `addresses`, or at the unspecified one, which is any of them, and comes before other portals there.
    """
    if destination is None:
        return portals[0] if portals else None
    here = destination.ip in addresses or ip_address(destination.ip).is_unspecified
    found = [
        portal
        for portal in portals
        if destination.port in (0, portal.port)
        and (portal.ip == destination.ip or (portal.kind is PortalKind.NODE_PORT and not portal.ip and here))
    ]
    if not found and ip_address(destination.ip).is_unspecified:
        found = [each for each in portals if each.kind is PortalKind.NODE_PORT and each.port == destination.port]
    return min(found, key=lambda portal: portal.kind is not PortalKind.NODE_PORT, default=None)


def _route_of(port: ServicePort, traffic: TrafficClass) -> TrafficClass:
    """The route that a class of traffic takes."""
    match traffic:
        case TrafficClass.INTERNAL:
            return TrafficClass.INTERNAL
        case TrafficClass.EXTERNAL:
            return port.external
        case TrafficClass.ON_NODE:
            return port.on_node


def _fate(
    there: Programmed, client: str, portal: Portal, traffic: TrafficClass, node: Surroundings
) -> tuple[Verdict, str]:
    """The verdict, and the reason where that is not just what the list says."""
    if not there.traits.serves_portals:
        return _at_local_port(there, traffic)
    unserved = _unserved(there, portal)
    if unserved is not None:
        return unserved
    confirmed = there.confirmed if there.confirmed is not None else there.needed
    if confirmed is None:
        return Verdict.DROP, "it is not in force yet"
    target = _target(confirmed, traffic)
    ranges = _ranges(confirmed, portal, there.port.family, node)
    if ranges and not any(ip_address(client) in ip_network(each) for each in ranges):
        nobody = confirmed.external.verdict is confirmed.on_node.verdict is Verdict.REJECT
        if not (there.traits.binds_portals and nobody):  # then nobody listens there, and the kernel refuses everybody
            return Verdict.DROP, "the client is not in loadBalancerSourceRanges"
    return _of_target(there, target)


def _of_target(there: Programmed, target: Target) -> tuple[Verdict, str]:
    if target.verdict is not Verdict.SERVE:
        wanted = [route.verdict for route in there.port.routes]
        if target.verdict is Verdict.REJECT and Verdict.REJECT not in wanted:
            return Verdict.REJECT, "its listener could not be opened"
        return target.verdict, ""
    snapshot = there.snapshots.get(ListenerName(there.port.name, there.port.family, target.traffic))
    if snapshot is not None and snapshot.hold is not None:
        return Verdict.SERVE, f"clients are held for {snapshot.hold:g} s at most, until there is an endpoint"
    if snapshot is None or not snapshot.endpoints:
        return Verdict.REJECT, "no endpoint is left that does not lead back to this Service (routing loop)"
    return snapshot.verdict, ""


def _at_local_port(there: Programmed, traffic: TrafficClass) -> tuple[Verdict, str]:
    """Without portals clients dial listeners themselves."""
    if there.needed is None:
        return Verdict.REJECT, "it is not in force yet"
    target = _target(there.needed, traffic)
    verdict, reason = _of_target(there, target)
    dialled = f"nobody is led to portals (--portals none): clients dial local port {target.local_port}"
    return verdict, dialled if verdict is Verdict.SERVE else reason


def _unserved(there: Programmed, portal: Portal) -> tuple[Verdict, str] | None:
    """What becomes of clients of a portal that is not served, None if it is."""
    if there.needed is None or portal not in there.needed.portals:
        return Verdict.REJECT, there.unserved.get(portal, "this portal is not served, for want of its port")
    if there.refused:
        if not there.traits.binds_portals:
            return Verdict.DROP, there.refused
        place = (
            f"{host_and_port(portal.ip, portal.port)}/{there.port.name.protocol}" if portal.ip else f":{portal.port}/"
        )
        return (Verdict.REJECT, there.refused) if place in there.refused else None
    if there.confirmed is None or portal not in there.confirmed.portals:
        return Verdict.DROP, "it is not in force yet"
    return None


def _target(binding: PortalBinding, traffic: TrafficClass) -> Target:
    match traffic:
        case TrafficClass.INTERNAL:
            return binding.internal
        case TrafficClass.EXTERNAL:
            return binding.external
        case TrafficClass.ON_NODE:
            return binding.on_node


def _ranges(binding: PortalBinding, portal: Portal, family: IPFamily, node: Surroundings) -> tuple[str, ...]:
    if portal.kind is not PortalKind.LOAD_BALANCER_IP:
        return ()
    balanced = [each.ip for each in binding.portals if each.kind is PortalKind.LOAD_BALANCER_IP]
    return allowed_sources(binding.source_ranges, balanced, node.host_ips, family)


def _policy(state: ServiceState, portal: Portal, traffic: TrafficClass) -> str:
    service = state.service
    if portal.kind is PortalKind.CLUSTER_IP:
        return f"internalTrafficPolicy: {'Local' if service.internal_local else 'Cluster'}"
    said = f"externalTrafficPolicy: {'Local' if service.external_local else 'Cluster'}"
    if service.external_local and traffic is TrafficClass.ON_NODE:
        return f"{said}, which does not restrict this node's own clients"
    return said


def _about_list(reports: Sequence[EndpointReport], *, local: bool) -> str:
    """What the list of endpoints amounts to."""
    usable = sum(report.usable for report in reports)
    if usable:
        return f"{usable} of {len(reports)} endpoints may serve"
    serving = any(report.ready or (report.serving and report.terminating) for report in reports)
    if serving and local:
        return "no endpoint of this node may serve, and policy Local allows no other"
    return "no endpoint may serve" if reports else "there are no endpoints"
