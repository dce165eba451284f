"""Wanted against actual: which actions, in which order. Pure."""

from collections.abc import Container, Iterable, Mapping, Sequence

from msgspec import Struct, field, structs

from userproxy.model import (
    Endpoint,
    Lead,
    ListenerName,
    Portal,
    PortalBinding,
    PortalKind,
    Problem,
    ProblemKind,
    Protocol,
    ServicePort,
    ServicePortName,
    Snapshot,
    TrafficClass,
    Verdict,
)
from userproxy.proxier.circles import Circles, Owners


class Claim(Struct, frozen=True, order=True, gc=False):
    """A local port that we hold, so that no other program takes it. `ip` is empty for all addresses of the family."""

    ip: str
    protocol: Protocol
    port: int


class OpenListener(Struct, frozen=True):
    """Open a listener, on `preferred_port` if that is possible."""

    name: ListenerName
    preferred_port: int | None = None


class ClaimPort(Struct, frozen=True):
    """Hold a local port, because a portal of `owner` needs it."""

    claim: Claim
    portal: Portal
    owner: ServicePortName


class UpdateRoute(Struct, frozen=True):
    """Hand a new snapshot to forwarding. `circular` are endpoints that it leaves out."""

    snapshot: Snapshot
    circular: tuple[Endpoint, ...] = ()


class SyncPortals(Struct, frozen=True):
    """Make the portals of all open listeners stand. What follows it takes away what no rule needs any more."""


class CloseListener(Struct, frozen=True):
    """Close a listener that nothing leads to any more."""

    name: ListenerName


class ReleasePort(Struct, frozen=True):
    """Let go of a local port that no portal needs any more."""

    claim: Claim


Action = OpenListener | ClaimPort | UpdateRoute | SyncPortals | CloseListener | ReleasePort


class Actual(Struct):
    """What there is. The executor keeps it true, action by action.

    `programmed` are the bindings that the portal driver last confirmed, or None if it has confirmed
    none yet.
    """

    local_ports: dict[ListenerName, int] = field(default_factory=dict)
    snapshots: dict[ListenerName, Snapshot] = field(default_factory=dict)
    claims: set[Claim] = field(default_factory=set)
    programmed: tuple[PortalBinding, ...] | None = None


class Granted(Struct, frozen=True):
    """Who has which portals, and the claims that lost. ``ways`` are the owners, and to whom load balancers lead."""

    portals: Mapping[ServicePortName, tuple[Portal, ...]]
    conflicts: tuple[Problem, ...]
    owners: Owners = field(default_factory=dict)
    ways: Owners = field(default_factory=dict)


def grant_portals(wanted: Iterable[ServicePort]) -> Granted:
    """Give every portal to one service port: where several claim it, to that of the oldest Service.

    Services without a creation time are the youngest, and names decide between equals, so the outcome
    never depends on the order in which they were read.
    """
    owners: dict[tuple[str, int, Protocol], ServicePortName] = {}
    portals: dict[ServicePortName, tuple[Portal, ...]] = {}
    conflicts: list[Problem] = []
    balanced: dict[tuple[str, int, Protocol], ServicePortName] = {}
    for service_port in sorted(wanted, key=lambda each: (not each.created, each.created, each.name)):
        name = service_port.name
        granted = []
        for portal in service_port.portals:
            key = (portal.ip, portal.port, name.protocol)
            owner = owners.get(key)
            if owner is None:
                owners[key] = name
                granted.append(portal)
            elif owner != name:
                text = f"{name}: {portal} ({name.protocol}) is not served, because {owner} has it"
                conflicts.append(Problem(name.service, ProblemKind.PORT_CONFLICT, text))
        portals[name] = tuple(granted)
        for ip, port in ((each.ip, each.port) for each in service_port.balancers):
            balanced.setdefault((ip, port, name.protocol), name)
    return Granted(portals, tuple(conflicts), owners, {**balanced, **owners} if balanced else owners)


def place_node_ports(granted: Granted, ips: Sequence[str] | None) -> Granted:
    """Node ports on these local addresses alone; None is all of them."""
    if ips is None:
        return granted
    placed = {
        name: tuple(
            place
            for portal in portals
            for place in (
                (Portal(portal.kind, ip, portal.port) for ip in ips)
                if portal.kind is PortalKind.NODE_PORT
                else (portal,)
            )
        )
        for name, portals in granted.portals.items()
    }
    return structs.replace(granted, portals=placed)


def plan_routes(
    wanted: Mapping[ServicePortName, ServicePort],
    granted: Granted,
    changed: Iterable[ServicePortName],
    actual: Actual,
    node_addresses: Container[str] = (),
) -> tuple[UpdateRoute, ...]:
    """The actions where only the endpoints or the affinity of `changed` service ports are others than before.

    What :func:`plan` would say of everything, at the cost of what changed.
    """
    circles = Circles(wanted, granted.ways, node_addresses)
    return tuple(
        update
        for name in changed
        for each in snapshots_of(wanted[name])
        if actual.snapshots.get(each.listener) != (update := _update(each, circles)).snapshot
    )


def plan(
    wanted: Mapping[ServicePortName, ServicePort],
    granted: Granted,
    actual: Actual,
    preferred_ports: Mapping[ServicePortName, Sequence[int]],
    node_addresses: Container[str] = (),
    *,
    verify: bool,
) -> tuple[Action, ...]:
    """The actions that turn `actual` into `wanted`, in the order in which they are safe.

    First what new rules will lead to, then the rules, then the removal of what old rules led to: if the
    rules cannot be written, everything that the old ones need is still there. `preferred_ports` are those that an
    earlier process had, in the order of its listeners. `node_addresses` are where node ports are served, here and
    elsewhere. `verify` has the portals synced even if nothing changed.
    """
    listeners = {name: port for port in wanted.values() for name in port.listeners}
    opened = [
        OpenListener(name, _preferred(position, preferred_ports.get(port.name, ())))
        for port in wanted.values()
        for position, name in enumerate(port.listeners)
        if name not in actual.local_ports
    ]
    needed = {
        claim: (portal, name)
        for name, portals in granted.portals.items()
        for portal in portals
        if (claim := claim_of(name, portal)) is not None
    }
    claimed = [ClaimPort(claim, *why) for claim, why in needed.items() if claim not in actual.claims]
    changed = bool(opened or claimed) or bindings(wanted, granted, actual) != actual.programmed
    synced = [SyncPortals()] if changed or verify else []
    routed = plan_routes(wanted, granted, wanted, actual, node_addresses)
    closed = [CloseListener(name) for name in actual.local_ports if name not in listeners]
    released = [ReleasePort(claim) for claim in sorted(actual.claims - needed.keys())]
    return (*opened, *claimed, *routed, *synced, *closed, *released)


def bindings(
    wanted: Mapping[ServicePortName, ServicePort], granted: Granted, actual: Actual
) -> tuple[PortalBinding, ...]:
    """What the portal driver should program: of open listeners, the portals that need no claim or have it.

    A service port without an INTERNAL listener is left out.
    """
    found = []
    for name, portals in sorted(granted.portals.items()):
        service_port = wanted[name]
        leads = {
            route.traffic: _lead(service_port, route.traffic, route.verdict, actual) for route in service_port.routes
        }
        if service_port.listeners[0] in actual.local_ports:
            found.append(
                PortalBinding(
                    name,
                    tuple(portal for portal in portals if _is_held(name, portal, actual)),
                    internal=leads[TrafficClass.INTERNAL],
                    external=leads[service_port.external],
                    on_node=leads[service_port.on_node],
                    source_ranges=service_port.source_ranges,
                    health_check_port=service_port.health_check_port,
                )
            )
    return tuple(found)


def claim_of(name: ServicePortName, portal: Portal) -> Claim | None:
    """What must be held for a portal: node ports alone, whose numbers authors of Services cannot choose freely."""
    if portal.kind is PortalKind.NODE_PORT:
        return Claim(portal.ip, name.protocol, portal.port)
    return None


def snapshots_of(service_port: ServicePort) -> tuple[Snapshot, ...]:
    """What forwarding needs to know of a service port, for each of its listeners."""
    return tuple(
        Snapshot(
            listener,
            route.verdict,
            route.endpoints,
            service_port.affinity_timeout,
            service_port.known,
            service_port.udp_timeout,
        )
        for listener, route in zip(service_port.listeners, service_port.routes, strict=True)
    )


def shape(service_port: ServicePort) -> tuple[object, ...]:
    """What rules, claims and listeners depend on, and who leads to whom: all but endpoints and affinity."""
    return (
        service_port.name,
        service_port.portals,
        service_port.created,
        [(route.traffic, route.verdict) for route in service_port.routes],
        service_port.external,
        service_port.on_node,
        service_port.source_ranges,
        service_port.health_check_port,
        service_port.balancers,
    )


def _update(snapshot: Snapshot, circles: Circles) -> UpdateRoute:
    circular = circles.closed_by(snapshot.listener.service_port, snapshot.endpoints)
    if not circular:
        return UpdateRoute(snapshot)
    usable = tuple(endpoint for endpoint in snapshot.endpoints if endpoint not in circular)
    return UpdateRoute(structs.replace(snapshot, endpoints=usable), circular)


def _lead(service_port: ServicePort, traffic: TrafficClass, verdict: Verdict, actual: Actual) -> Lead:
    if verdict is not Verdict.SERVE:
        return Lead(verdict)
    local_port = actual.local_ports.get(ListenerName(service_port.name, service_port.family, traffic))
    return Lead(Verdict.REJECT) if local_port is None else Lead(Verdict.SERVE, local_port)


def _preferred(position: int, ports: Sequence[int]) -> int | None:
    return ports[position] if position < len(ports) else None


def _is_held(name: ServicePortName, portal: Portal, actual: Actual) -> bool:
    claim = claim_of(name, portal)
    return claim is None or claim in actual.claims
