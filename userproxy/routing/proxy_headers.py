"""What a Service's annotations about PROXY headers come to: who they let in, and what they cannot do."""

from collections.abc import Iterator

from userproxy.addresses import IPFamily
from userproxy.model import BalancerAccess, PortSpec, Problem, ProblemKind, Protocol, Service
from userproxy.routing.source_ranges import allowed_sources


def balancer_access(service: Service, spec: PortSpec) -> BalancerAccess | None:
    """Who may use a port's load balancers by the addresses in PROXY headers; None where no such rule is needed.

    Rules and socket filters see whoever has dialled, which is a proxy then. Unlike them this also knows of load
    balancers with ``ipMode: Proxy``, whose addresses headers have as their destinations.
    """
    if service.accepts_proxy is None or spec.protocol is not Protocol.TCP:
        return None
    networks = tuple(
        network for family in IPFamily for network in allowed_sources(service.source_ranges, (), (), family)
    )
    ips = (*service.load_balancer_ips, *service.balancer_ips)
    return BalancerAccess(ips, networks) if networks and ips else None


def header_problems(service: Service, *, trusts_proxies: bool) -> Iterator[Problem]:
    """Why headers that a Service asks for are not sent or read. `trusts_proxies` is whether any are believed here."""
    name = f"{service.namespace}/{service.name}"
    asked = [
        annotation
        for annotation, version in (
            ("userproxy.io/proxy-protocol", service.sends_proxy),
            ("userproxy.io/accept-proxy-protocol", service.accepts_proxy),
        )
        if version is not None
    ]
    if not asked:
        return
    datagrams = [str(spec.port) for spec in service.ports if spec.protocol is Protocol.UDP]
    if datagrams:
        text = (
            f"{name}: {' and '.join(asked)}: ignored for UDP port {', '.join(datagrams)}, since the PROXY protocol is "
            "for TCP"
        )
        yield Problem(service.key, ProblemKind.BAD_ANNOTATION, text)
    if service.accepts_proxy is not None and not trusts_proxies:
        text = (
            f"{name}: userproxy.io/accept-proxy-protocol: no header is read, since nobody's is believed: this node's "
            "--trusted-proxies names no network"
        )
        yield Problem(service.key, ProblemKind.BAD_ANNOTATION, text, here=True)
