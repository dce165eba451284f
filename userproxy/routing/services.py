"""From a Service and its slices to service ports (kube-proxy's ``serviceport.go`` rules, KEP-752 for slices)."""

from collections.abc import Collection, Container, Mapping, Sequence
from itertools import islice
from typing import Final

from msgspec import Struct, structs

from userproxy.addresses import of_family
from userproxy.model import (
    BalancerName,
    ClientAddress,
    Endpoint,
    HealthCheck,
    IPFamily,
    Limits,
    Overflow,
    Portal,
    PortalKind,
    PortSpec,
    Problem,
    ProblemKind,
    Protocol,
    Route,
    Service,
    ServicePort,
    ServicePortName,
    ServiceState,
    SliceEndpoint,
    TrafficClass,
    Verdict,
)
from userproxy.routing.proxy_headers import balancer_access, header_problems
from userproxy.routing.selection import Locality, Selection, candidates, select
from userproxy.routing.source_ranges import allowed_sources
from userproxy.routing.weights import in_order, weights_of

_BALANCERS: Final = frozenset(map(str, BalancerName))
MOST_PORTS: Final = 8
"""What concerns a Service with more of them is not done in one go."""

MOST_BAD_SLICES: Final = 10
"""So many annotations of slices are named that cannot be used, of one Service."""

_CARRIED: Final = frozenset({Protocol.TCP, Protocol.UDP})

_INTERNAL, _EXTERNAL, _ON_NODE = TrafficClass.INTERNAL, TrafficClass.EXTERNAL, TrafficClass.ON_NODE

_SECOND_ROUTE: Final[dict[tuple[bool, bool], tuple[TrafficClass, TrafficClass, TrafficClass]]] = {
    (False, True): (_EXTERNAL, _EXTERNAL, _INTERNAL),
    (True, False): (_EXTERNAL, _EXTERNAL, _EXTERNAL),
    (True, True): (_ON_NODE, _INTERNAL, _ON_NODE),
}
"""By the two policies, internal and external, being Local: the traffic class of the second route, and the routes of
external traffic and of such traffic from this node. The second route has the list that cluster IPs do not use."""


class Scope(Struct, frozen=True):
    """For whom a proxy works: one address family on one node.

    ``proxy_name`` is our own ``--service-proxy-name``: with it only the Services labelled for it are ours, without it
    only the unlabelled ones. ``external_ips_allowed`` is the feature gate ``AllowServiceExternalIPs``. ``node_ips``
    are the node's own addresses, of either family; ``node_known`` is whether they are known. ``client_address`` is
    whose address backends see, unless a Service says otherwise. ``trusts_proxies`` is whether PROXY headers of
    anybody are believed. ``balancers`` are those of other packages that are installed.
    """

    family: IPFamily = IPFamily.IPV4
    locality: Locality = Locality()
    proxy_name: str | None = None
    external_ips_allowed: bool = True
    node_ips: tuple[str, ...] = ()
    node_known: bool = True
    client_address: ClientAddress = ClientAddress.NODE
    trusts_proxies: bool = False
    balancers: Container[str] = frozenset()


class NoLocalEndpoints(Struct, frozen=True):
    """How many service ports have endpoints, but none that a ``Local`` policy allows, by internal and external policy.

    What kube-proxy reports as ``kubeproxy_sync_proxy_rules_no_local_endpoints_total``.
    """

    internal: int = 0
    external: int = 0


class Routed(Struct, frozen=True, gc=False):
    """The service ports of one Service in one address family, and what of it is not served.

    ``left_out`` is meant for the operator; what concerns both families is reported by that of the first cluster IP
    alone. ``skipped`` is the reason why the whole Service is none of ours (headless, ExternalName, another proxy's,
    not of this family), which is not a problem. ``health_check`` is None where load balancers need not ask.
    """

    ports: tuple[ServicePort, ...] = ()
    left_out: tuple[Problem, ...] = ()
    skipped: str | None = None
    health_check: HealthCheck | None = None
    no_local: NoLocalEndpoints = NoLocalEndpoints()


def service_ports(state: ServiceState, scope: Scope) -> Routed:
    """What to serve of a Service in the scope's address family."""
    service = state.service
    reason = skip_reason(service, scope)
    if reason is not None:
        return Routed(skipped=reason)
    external_local = service.external_local and _has_external_policy(service)
    source_ranges = allowed_sources(service.source_ranges, service.load_balancer_ips, scope.node_ips, scope.family)
    health_check_port = service.health_check_node_port if external_local and service.type == "LoadBalancer" else 0
    ports: list[ServicePort] = []
    no_local = 0
    for spec in service.ports:
        if spec.protocol not in _CARRIED:
            continue
        port, lacks_local = _service_port(
            state, spec, scope, source_ranges, 0 if ports else health_check_port, external_local=external_local
        )
        ports.append(port)
        no_local += lacks_local
    return Routed(
        tuple(ports),
        (*(_problems(service, scope) if _reports(scope.family, service) else ()), *_of_slices(state)),
        health_check=(
            HealthCheck(service.key, health_check_port, _local_ready(state, scope))
            if ports and health_check_port
            else None
        ),
        no_local=NoLocalEndpoints(
            internal=no_local if service.internal_local else 0, external=no_local if external_local else 0
        ),
    )


def is_plain(service: Service, routed: Routed) -> bool:
    """Whether nothing but endpoints is decided by slices of a Service from which `routed` follows.

    So it is for nearly all: they have a few ports, no traffic policy ``Local``, no weights by hints, and no problem.
    """
    return (
        0 < len(routed.ports) == len(service.ports) <= MOST_PORTS
        and not (service.internal_local or service.external_local or routed.left_out)
        and service.hint_weight is None
        and routed.health_check is None
    )


def with_endpoints(port: ServicePort, state: ServiceState, scope: Scope) -> ServicePort | None:
    """One service port of a Service that :func:`is_plain`, `port`, with the endpoints of its slices as they are now.

    A fourth of the calls of :func:`service_ports`, for what nearly all changes in a cluster are. None where it is not
    enough: slices have weights or problems, or there is the first endpoint or none any more.
    """
    for each in state.slices:
        if each.weighted or each.bad_annotations:
            return None
    service = state.service
    found = candidates(state.slices, port.name.port, port.name.protocol, scope.family)
    endpoints = select(found, locality=scope.locality).cluster
    if not endpoints or port.routes[0].verdict is not Verdict.SERVE or not port.routes[0].endpoints:
        return None
    named = found if port.client_address is not ClientAddress.NODE else None
    routes = (_route(TrafficClass.INTERNAL, endpoints, Verdict.SERVE, named, {}),)
    known = None if service.close_removed_after is None else tuple(sorted(found))
    return structs.replace(port, routes=routes, known=known, unused=_unused(found, routes))


def _service_port(
    state: ServiceState,
    spec: PortSpec,
    scope: Scope,
    source_ranges: tuple[str, ...],
    health_check_port: int,
    *,
    external_local: bool,
) -> tuple[ServicePort, bool]:
    """One service port, and whether it has endpoints but none that a ``Local`` policy allows."""
    service = state.service
    portals = portals_of(service, spec, scope)
    accessible = any(portal.kind is not PortalKind.CLUSTER_IP for portal in portals)
    found = candidates(state.slices, spec.name, spec.protocol, scope.family)
    selection = select(
        found,
        internal_local=service.internal_local,
        external_local=external_local,
        externally_accessible=accessible,
        locality=scope.locality,
        hints_exclude=service.hint_weight is None,
    )
    weights = weights_of(state, found, selection.cluster or (), scope.locality)
    client_address = service.client_address or scope.client_address
    routes, external, on_node = _routes(
        selection,
        found if client_address is not ClientAddress.NODE else None,
        weights,
        internal_local=service.internal_local,
        external_local=external_local,
        accessible=accessible,
        holds=service.hold is not None,
    )
    carries_header = spec.protocol is Protocol.TCP
    port = ServicePort(
        name=ServicePortName(service.namespace, service.name, spec.name, spec.protocol),
        portals=portals,
        routes=routes,
        external=external,
        on_node=on_node,
        family=scope.family,
        affinity_timeout=service.affinity_timeout,
        source_ranges=source_ranges,
        created=service.created,
        known=None if service.close_removed_after is None else tuple(sorted(found)),
        udp_timeout=service.udp_timeout,
        health_check_port=health_check_port,
        unused=_unused(found, routes),
        balancers=_balancers(service, spec, scope),
        client_address=client_address,
        sends_proxy=service.sends_proxy if carries_header else None,
        accepts_proxy=service.accepts_proxy if carries_header else None,
        balancer_access=balancer_access(service, spec),
        closes_after=service.close_removed_after or 0.0,
        balancer=service.balancer if _has_balancer(service, scope) else BalancerName.ROUND_ROBIN,
        ejection=service.ejection,
        limits=_limits(service.limits, spec.protocol),
        hold=service.hold,
    )
    return port, selection.local == () and selection.has_any


def _limits(limits: Limits | None, protocol: Protocol) -> Limits | None:
    """Those of a port: of UDP how many flows there may be, beyond which datagrams are dropped."""
    if protocol is Protocol.TCP or limits is None:
        return limits
    if protocol is not Protocol.UDP or limits.connections is None:
        return None
    return Limits(limits.connections, Overflow.REFUSE)


def skip_reason(service: Service, scope: Scope) -> str | None:
    """Why a Service is none of ours, or None if it is."""
    if service.proxy_name != scope.proxy_name:
        if service.proxy_name is None:
            return f"it has no label service.kubernetes.io/service-proxy-name: {scope.proxy_name}"
        return f"it is labelled for the service proxy {service.proxy_name!r}"
    if service.type == "ExternalName":
        return "its type is ExternalName"
    if not service.cluster_ips:
        return "it has no cluster IP"
    if not of_family(service.cluster_ips, scope.family):
        return f"it has no {scope.family} cluster IP"
    return None


def portals_of(service: Service, spec: PortSpec, scope: Scope) -> tuple[Portal, ...]:
    """The portals of one port in the scope's family, in kube-proxy's order of opening them, each once."""
    by_kind = (
        (PortalKind.CLUSTER_IP, service.cluster_ips),
        (PortalKind.EXTERNAL_IP, service.external_ips if scope.external_ips_allowed else ()),
        (PortalKind.LOAD_BALANCER_IP, service.load_balancer_ips),
    )
    portals = [Portal(kind, ip, spec.port) for kind, ips in by_kind if ips for ip in of_family(ips, scope.family)]
    if spec.node_port:
        portals.append(Portal(PortalKind.NODE_PORT, "", spec.node_port))
    return tuple(dict.fromkeys(portals))


def _has_external_policy(service: Service) -> bool:
    """Whether ``externalTrafficPolicy`` means anything for a Service of this type."""
    return service.type in ("NodePort", "LoadBalancer") or (service.type == "ClusterIP" and bool(service.external_ips))


def _routes(
    selection: Selection,
    found: Mapping[Endpoint, SliceEndpoint] | None,
    weights: Mapping[Endpoint, int],
    *,
    internal_local: bool,
    external_local: bool,
    accessible: bool,
    holds: bool,
) -> tuple[tuple[Route, ...], TrafficClass, TrafficClass]:
    """The routes, and those that external traffic takes and such traffic from this node.

    With `found`, what slices say of endpoints, they have the names of endpoints' nodes. `weights` are of those whose
    weight is not 1. `holds` is whether clients are led to a listener also where there are no endpoints.
    """
    first, second = selection.cluster, selection.local
    if internal_local:
        first, second = second, first
    nobody = Verdict.DROP if selection.has_any else Verdict.SERVE if holds else Verdict.REJECT
    routes = (_route(TrafficClass.INTERNAL, first, nobody, found, weights),)
    classes = _SECOND_ROUTE.get((internal_local, external_local)) if accessible else None
    if classes is None:
        return routes, TrafficClass.INTERNAL, TrafficClass.INTERNAL
    traffic, external, on_node = classes
    return (*routes, _route(traffic, second, nobody, found, weights)), external, on_node


def _route(
    traffic: TrafficClass,
    endpoints: Sequence[Endpoint] | None,
    nobody: Verdict,
    found: Mapping[Endpoint, SliceEndpoint] | None,
    weights: Mapping[Endpoint, int],
) -> Route:
    """`nobody` is the verdict where there are no endpoints."""
    if not endpoints:
        return Route(traffic, nobody)
    nodes = () if found is None else tuple([found[endpoint].node or "" for endpoint in endpoints])
    return Route(traffic, Verdict.SERVE, tuple(endpoints), nodes, in_order(weights, endpoints) if weights else ())


def _unused(found: Collection[Endpoint], routes: Sequence[Route]) -> tuple[Endpoint, ...]:
    """The endpoints that no route has, sorted."""
    if len(routes[0].endpoints) == len(found):
        return ()
    used = {endpoint for route in routes for endpoint in route.endpoints}
    return tuple(sorted(endpoint for endpoint in found if endpoint not in used))


def _balancers(service: Service, spec: PortSpec, scope: Scope) -> tuple[Endpoint, ...]:
    """Where load balancers with ``ipMode: Proxy``, which are not portals, send traffic for the service port."""
    if not service.balancer_ips:
        return ()
    ips = of_family(service.balancer_ips, scope.family)
    return tuple(Endpoint(ip, port) for ip in ips for port in (spec.port, spec.node_port) if port)


def _reports(family: IPFamily, service: Service) -> bool:
    """Whether this family reports what no family serves: IPv4, which every node has, where the Service has it."""
    return family is IPFamily.IPV4 or not of_family(service.cluster_ips, IPFamily.IPV4)


def _problems(service: Service, scope: Scope) -> tuple[Problem, ...]:
    """What no address family serves."""
    problems = [Problem(service.key, ProblemKind.BAD_ANNOTATION, text) for text in service.bad_annotations]
    problems += header_problems(service, trusts_proxies=scope.trusts_proxies)
    if not _has_balancer(service, scope):
        text = (
            f'{service.key}: annotation userproxy.io/balancer: "{service.balancer}" is not one of '
            f"{', '.join(BalancerName)}, and no package that is installed here has a balancer of that name"
        )
        problems.append(Problem(service.key, ProblemKind.BAD_ANNOTATION, text, here=True))
    for spec in service.ports:
        if spec.protocol not in _CARRIED:
            name = ServicePortName(service.namespace, service.name, spec.name, spec.protocol)
            text = f"{name}: {spec.protocol} port {spec.port} is not served: userproxy carries TCP and UDP"
            problems.append(Problem(service.key, ProblemKind.UNSUPPORTED_PROTOCOL, text))
    return tuple(problems)


def _has_balancer(service: Service, scope: Scope) -> bool:
    return service.balancer in _BALANCERS or service.balancer in scope.balancers


def _of_slices(state: ServiceState) -> list[Problem]:
    """What annotations of slices cannot be used, of the first few: a Service may have thousands of slices."""
    texts = dict.fromkeys(text for each in state.slices for text in each.bad_annotations)
    return [Problem(state.service.key, ProblemKind.BAD_ANNOTATION, text) for text in islice(texts, MOST_BAD_SLICES)]


def _local_ready(state: ServiceState, scope: Scope) -> int:
    """How many addresses of this node have a ready endpoint, whatever the port.

    Those that only serve while they terminate do not count: the load balancer is to send its clients elsewhere.
    """
    ports = {(port.name, port.protocol) for slice_ in state.slices for port in slice_.ports}
    return len(
        {
            endpoint.ip
            for port_name, protocol in ports
            for endpoint, source in candidates(state.slices, port_name, protocol, scope.family).items()
            if source.ready and source.node == scope.locality.node
        }
    )
