"""What the control plane says of itself, and the interface through which it is asked."""

import typing
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter

from msgspec import Struct, structs

from userproxy.model import (
    BalancerName,
    ClientAddress,
    Differences,
    Endpoint,
    IPFamily,
    Limits,
    ListenerName,
    Portal,
    PortalBinding,
    PortalKind,
    Problem,
    ProxyProtocol,
    ServicePort,
    ServicePortName,
    ServiceState,
    SliceEndpoint,
    Snapshot,
    Target,
    TrafficClass,
    Verdict,
)
from userproxy.model.sources import WatchReport
from userproxy.routing.drains import DRAINED_REASON
from userproxy.routing.exclusions import exclusions
from userproxy.routing.selection import Locality, candidates
from userproxy.routing.weights import with_weight

if typing.TYPE_CHECKING:
    from userproxy.proxier.inspect.explanation import Explanation


class PortalReport(Struct, frozen=True, gc=False):
    """A portal of a service port. `local_port` is where clients from elsewhere are led, None if they are not served or
    the portal is itself listened on. `in_sync` is whether the driver has confirmed it as it is wanted."""

    portal: Portal
    local_port: int | None
    in_sync: bool


class ServicePortReport(Struct, frozen=True, gc=False):
    """A service port in one family. `usable` are the endpoints that new clients may get, of all that slices name.

    `client_address` is whose address they are to see, by its Service or else by our own setting; `balancer` is the
    name of what chooses among them, `limits` are those of clients, `hold` is for how many seconds they are held while
    there is no endpoint.
    """

    name: ServicePortName
    family: IPFamily
    driver: str
    portals: tuple[PortalReport, ...]
    affinity_timeout: int | None
    usable: int
    endpoints: int
    client_address: ClientAddress = ClientAddress.NODE
    sends_proxy: ProxyProtocol | None = None
    accepts_proxy: ProxyProtocol | None = None
    balancer: str = BalancerName.ROUND_ROBIN
    limits: Limits | None = None
    hold: float | None = None


class EndpointReport(Struct, frozen=True, gc=False):
    """An endpoint of a service port. `reason` says why it is not `usable`, or not by every client; else it is empty.

    `weight` is the highest that it has in a list.
    """

    endpoint: Endpoint
    node: str | None
    zone: str | None
    ready: bool
    serving: bool
    terminating: bool
    usable: bool
    reason: str
    weight: int = 1


class FamilyReport(Struct, frozen=True, gc=False):
    """Whether the portals of a family stand as they are wanted, and since when (Unix time) it is as `in_sync` says.

    `served` is whether the driver's tools work for it at all. `reason` says why it is not in sync.
    `pending_services` and `pending_slices` are the changes that wait to be taken.
    """

    family: IPFamily
    driver: str
    served: bool
    in_sync: bool
    since: float
    reason: str = ""
    pending_services: int = 0
    pending_slices: int = 0


class FamilyDifferences(Struct, frozen=True, gc=False):
    """How the portals of a family differ from those that are wanted; `failure` says why that cannot be seen."""

    family: IPFamily
    driver: str
    found: Differences = Differences()
    failure: str = ""


class ControlPlane(typing.Protocol):
    """What decides on portals and routes, as the admin API sees it. Answers that are not awaited take well under a
    millisecond."""

    def names(self) -> Collection[ServicePortName]:
        """The service ports of all families, in no order."""

    def service_ports(self, name: ServicePortName) -> tuple[ServicePortReport, ...]:
        """A service port in each family that has it; none where it does not exist (any more)."""

    def endpoints(self, name: ServicePortName) -> tuple[EndpointReport, ...]:
        """The endpoints of a service port, of all families, by address within each."""

    async def explain(self, name: ServicePortName, client: str, to: Endpoint | None) -> "Explanation | None":
        """What becomes of a client's next connection to a portal of a service port; None if there is no such portal.

        Without `to` it is the cluster IP of the client's family. Port 0 is any port.
        """

    def problems(self) -> frozenset[Problem]:
        """What is wanted and not served."""

    def object_problems(self) -> tuple[str, ...]:
        """A sentence for each thing that is wrong with the cluster's objects or the manifests."""

    def families(self) -> tuple[FamilyReport, ...]:
        """The families that are served."""

    async def differences(self) -> tuple[FamilyDifferences, ...]:
        """What stands against what is wanted, of each family that is served. The kernel's rules are read for that."""

    def watches(self) -> tuple[WatchReport, ...]:
        """What Services are learnt from."""


def portal_reports(
    portals: Collection[Portal], needed: PortalBinding | None, programmed: PortalBinding | None
) -> tuple[PortalReport, ...]:
    """`portals` of a service port, by what is `needed` and what the driver has `programmed` of it."""
    alike = needed is not None and programmed is not None and _without_portals(needed) == _without_portals(programmed)
    wanted = () if needed is None else needed.portals
    stand = () if programmed is None else programmed.portals
    return tuple(
        PortalReport(
            portal,
            _local_port(portal, needed),
            in_sync=alike and portal in wanted and portal in stand,
        )
        for portal in portals
    )


def _without_portals(binding: PortalBinding) -> PortalBinding:
    return structs.replace(binding, portals=())


def _local_port(portal: Portal, needed: PortalBinding | None) -> int | None:
    if needed is None:
        return None
    target: Target = needed.internal if portal.kind is PortalKind.CLUSTER_IP else needed.external
    return (target.local_port or None) if target.verdict is Verdict.SERVE else None


def endpoint_reports(
    port: ServicePort,
    state: ServiceState,
    locality: Locality,
    snapshots: Mapping[ListenerName, Snapshot],
) -> tuple[EndpointReport, ...]:
    """The endpoints that slices name for a service port, with the reasons why routes do not have them.

    `state` is its Service, and `snapshots` are what the data plane has been told.
    """
    found = candidates(state.slices, port.name.port, port.name.protocol, port.family)
    reasons = [_not_used(port, found, state, locality, snapshots, index) for index in range(len(port.routes))]
    weights = _weights(port)
    return tuple(
        _report(endpoint, source, [excluded.get(endpoint, "") for excluded in reasons], weights.get(endpoint), port)
        for endpoint, source in sorted(found.items(), key=itemgetter(0))
    )


def route_reports(
    port: ServicePort,
    state: ServiceState,
    locality: Locality,
    snapshots: Mapping[ListenerName, Snapshot],
    index: int,
) -> tuple[EndpointReport, ...]:
    """As :func:`endpoint_reports`, for the clients of one of the service port's routes alone."""
    found = candidates(state.slices, port.name.port, port.name.protocol, port.family)
    reasons = _not_used(port, found, state, locality, snapshots, index)
    weights = _weights(port)
    return tuple(
        _report(endpoint, source, [reasons.get(endpoint, "")], weights.get(endpoint), port)
        for endpoint, source in sorted(found.items(), key=itemgetter(0))
    )


def _not_used(
    port: ServicePort,
    found: Mapping[Endpoint, SliceEndpoint],
    state: ServiceState,
    locality: Locality,
    snapshots: Mapping[ListenerName, Snapshot],
    index: int,
) -> dict[Endpoint, str]:
    """Why endpoints are not used by one of a service port's routes."""
    route = port.routes[index]
    local = state.service.internal_local is (index == 0)  # the second route has the list that the first has not
    reasons = exclusions(found, route.endpoints, locality, local=local)
    snapshot = snapshots.get(port.listeners[index])
    if snapshot is not None and snapshot.weights:
        with_some = frozenset(usable_endpoints(snapshot))
        reasons |= {endpoint: "its weight is 0" for endpoint in snapshot.endpoints if endpoint not in with_some}
    if snapshot is not None and len(snapshot.endpoints) < len(route.endpoints):
        told, drained = frozenset(snapshot.endpoints), frozenset(snapshot.draining)
        looping = "routing loop: it is a portal that leads back to this Service"
        reasons |= {
            endpoint: DRAINED_REASON if endpoint in drained else looping
            for endpoint in route.endpoints
            if endpoint not in told
        }
    return reasons


def _report(
    endpoint: Endpoint, source: SliceEndpoint, reasons: list[str], weight: int | None, port: ServicePort
) -> EndpointReport:
    usable = not all(reasons)
    return EndpointReport(
        endpoint,
        source.node,
        source.zone,
        source.ready,
        source.serving,
        source.terminating,
        usable,
        _combined(reasons, port) if any(reasons) else "",
        source.weight if weight is None else weight,
    )


def _weights(port: ServicePort) -> dict[Endpoint, int]:
    """The highest weight of each endpoint of a list in which weights differ."""
    found: dict[Endpoint, int] = {}
    for route in port.routes:
        for endpoint, weight in zip(route.endpoints, route.weights, strict=False):
            found[endpoint] = max(weight, found.get(endpoint, 0))
    return found


def usable_endpoints(snapshot: Snapshot) -> Sequence[Endpoint]:
    """Those that new clients may get."""
    return with_weight(snapshot.endpoints, snapshot.weights) if snapshot.weights else snapshot.endpoints


def _combined(reasons: list[str], port: ServicePort) -> str:
    """One text for the reasons of all routes, of which some may be empty."""
    if len(set(reasons)) == 1:
        return reasons[0]
    by_route = zip(port.routes, reasons, strict=True)
    return "; ".join(f"{_traffic(route.traffic, port)}: {reason}" for route, reason in by_route if reason)


def _traffic(traffic: TrafficClass, port: ServicePort) -> str:
    """Whose traffic a route takes, for a person."""
    match traffic:
        case TrafficClass.INTERNAL if port.external is TrafficClass.INTERNAL:
            return "not for clients from elsewhere, nor at cluster IPs"
        case TrafficClass.INTERNAL:
            return "not at cluster IPs"
        case TrafficClass.EXTERNAL:
            return "not at external portals"
        case TrafficClass.ON_NODE:
            return "not for this node's own clients of external portals"
