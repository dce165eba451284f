"""From a Service and its slices to service ports (kube-proxy's ``serviceport.go`` rules, KEP-752 for slices)."""

from msgspec import Struct

from userproxy.model import (
    Portal,
    PortalKind,
    PortSpec,
    Problem,
    ProblemKind,
    Protocol,
    Service,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from userproxy.routing.endpoints import eligible_endpoints

_CARRIED = frozenset({Protocol.TCP})


class Routed(Struct, frozen=True):
    """The service ports of one Service, and what of it is not served.

    `left_out` is meant for the operator; `skipped` is the reason why the whole Service is none of ours
    (headless, ExternalName, another proxy's), which is no fault of anybody.
    """

    ports: tuple[ServicePort, ...] = ()
    left_out: tuple[Problem, ...] = ()
    skipped: str | None = None


def service_ports(state: ServiceState, proxy_name: str | None = None) -> Routed:
    """What to serve of a Service.

    `proxy_name` is our own ``--service-proxy-name``: with it only the Services labelled for it are
    ours, without it only the unlabelled ones.
    """
    service = state.service
    reason = skip_reason(service, proxy_name)
    if reason is not None:
        return Routed(skipped=reason)
    ports: list[ServicePort] = []
    left_out: list[Problem] = []
    for spec in service.ports:
        name = ServicePortName(service.namespace, service.name, spec.name, spec.protocol)
        if spec.protocol not in _CARRIED:
            text = f"{name}: {spec.protocol} port {spec.port} is not served: userproxy carries only TCP so far"
            left_out.append(Problem(service.key, ProblemKind.UNSUPPORTED_PROTOCOL, text))
            continue
        ports.append(
            ServicePort(
                name=name,
                portals=portals_of(service, spec),
                endpoints=eligible_endpoints(state.slices, spec.name, spec.protocol),
                affinity_timeout=service.affinity_timeout,
                created=service.created,
            )
        )
    return Routed(tuple(ports), tuple(left_out))


def skip_reason(service: Service, proxy_name: str | None = None) -> str | None:
    """Why a Service is none of ours, or None if it is."""
    if service.proxy_name != proxy_name:
        if service.proxy_name is None:
            return f"it has no label service.kubernetes.io/service-proxy-name: {proxy_name}"
        return f"it is labelled for the service proxy {service.proxy_name!r}"
    if service.type == "ExternalName":
        return "its type is ExternalName"
    if not service.cluster_ips:
        return "it has no cluster IP"
    if not any(map(_is_ipv4, service.cluster_ips)):
        return "it has no IPv4 cluster IP"
    return None


def portals_of(service: Service, spec: PortSpec) -> tuple[Portal, ...]:
    """The IPv4 portals of one port, in kube-proxy's order of opening them, each once."""
    by_kind = (
        (PortalKind.CLUSTER_IP, service.cluster_ips),
        (PortalKind.EXTERNAL_IP, service.external_ips),
        (PortalKind.LOAD_BALANCER_IP, service.load_balancer_ips),
    )
    portals = [Portal(kind, ip, spec.port) for kind, ips in by_kind for ip in ips if _is_ipv4(ip)]
    if spec.node_port:
        portals.append(Portal(PortalKind.NODE_PORT, "", spec.node_port))
    return tuple(dict.fromkeys(portals))


def _is_ipv4(ip: str) -> bool:
    return ":" not in ip
