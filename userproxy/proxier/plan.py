"""Wanted against actual: which actions, in which order. Pure."""

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from userproxy.model import (
    Portal,
    PortalBinding,
    PortalKind,
    Problem,
    ProblemKind,
    Protocol,
    ServicePort,
    ServicePortName,
    Snapshot,
)

NodePort = tuple[Protocol, int]


class OpenListener(Struct, frozen=True):
    """Listen for a service port, on `preferred_port` if that is possible."""

    name: ServicePortName
    preferred_port: int | None = None


class ClaimNodePort(Struct, frozen=True):
    """Hold a node port for `owner`."""

    protocol: Protocol
    port: int
    owner: ServicePortName


class UpdateRoute(Struct, frozen=True):
    """Hand a new snapshot to forwarding."""

    snapshot: Snapshot


class SyncPortals(Struct, frozen=True):
    """Make the portals of all open service ports stand. What follows it takes away what no rule needs any more."""


class CloseListener(Struct, frozen=True):
    """Stop listening for a service port that is gone."""

    name: ServicePortName


class ReleaseNodePort(Struct, frozen=True):
    """Let go of a node port that nobody has any more."""

    protocol: Protocol
    port: int


Action = OpenListener | ClaimNodePort | UpdateRoute | SyncPortals | CloseListener | ReleaseNodePort


class Actual(Struct):
    """What there is. The executor keeps it true, action by action.

    `programmed` are the bindings that the portal driver last confirmed, or None if it has confirmed
    none yet.
    """

    local_ports: dict[ServicePortName, int] = field(default_factory=dict)
    snapshots: dict[ServicePortName, Snapshot] = field(default_factory=dict)
    node_ports: set[NodePort] = field(default_factory=set)
    programmed: tuple[PortalBinding, ...] | None = None


class Granted(Struct, frozen=True):
    """Who has which portals, and the claims that lost."""

    portals: Mapping[ServicePortName, tuple[Portal, ...]]
    conflicts: tuple[Problem, ...]


def grant_portals(wanted: Iterable[ServicePort]) -> Granted:
    """Give every portal to one service port: where several claim it, to that of the oldest Service.

    Services without a creation time are the youngest, and names decide between equals, so the outcome
    never depends on the order in which they were read.
    """
    owners: dict[tuple[str, int, Protocol], ServicePortName] = {}
    portals: dict[ServicePortName, tuple[Portal, ...]] = {}
    conflicts: list[Problem] = []
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
    return Granted(portals, tuple(conflicts))


def plan_routes(
    wanted: Mapping[ServicePortName, ServicePort], changed: Iterable[ServicePortName], actual: Actual
) -> tuple[UpdateRoute, ...]:
    """The actions where only the endpoints or the affinity of `changed` service ports are others than before.

    What :func:`plan` would say of everything, at the cost of what changed.
    """
    snapshots = (snapshot_of(wanted[name]) for name in changed)
    return tuple(UpdateRoute(each) for each in snapshots if actual.snapshots.get(each.name) != each)


def plan(
    wanted: Mapping[ServicePortName, ServicePort],
    granted: Granted,
    actual: Actual,
    preferred_ports: Mapping[ServicePortName, int],
    *,
    verify: bool,
) -> tuple[Action, ...]:
    """The actions that turn `actual` into `wanted`, in the order in which they are safe.

    First what new rules will lead to, then the rules, then the removal of what old rules led to: if the
    rules cannot be written, everything that the old ones need is still there. `verify` has the portals
    synced even if nothing changed.
    """
    opened = [OpenListener(name, preferred_ports.get(name)) for name in wanted if name not in actual.local_ports]
    routed = plan_routes(wanted, wanted, actual)
    needed = {node_port: name for name, portals in granted.portals.items() for node_port in node_ports(name, portals)}
    claimed = [
        ClaimNodePort(*node_port, owner) for node_port, owner in needed.items() if node_port not in actual.node_ports
    ]
    changed = bool(opened or claimed) or bindings(granted, actual) != actual.programmed
    synced = [SyncPortals()] if changed or verify else []
    closed = [CloseListener(name) for name in actual.local_ports if name not in wanted]
    released = [ReleaseNodePort(*node_port) for node_port in sorted(actual.node_ports - needed.keys())]
    return (*opened, *claimed, *routed, *synced, *closed, *released)


def bindings(granted: Granted, actual: Actual) -> tuple[PortalBinding, ...]:
    """What the portal driver should program: portals of open listeners, node ports only while we hold them."""
    return tuple(
        PortalBinding(name, actual.local_ports[name], tuple(p for p in portals if _is_held(name, p, actual)))
        for name, portals in sorted(granted.portals.items())
        if name in actual.local_ports
    )


def node_ports(name: ServicePortName, portals: Iterable[Portal]) -> tuple[NodePort, ...]:
    """The node ports among `portals`."""
    return tuple((name.protocol, portal.port) for portal in portals if portal.kind is PortalKind.NODE_PORT)


def snapshot_of(service_port: ServicePort) -> Snapshot:
    """What forwarding needs to know of a service port."""
    return Snapshot(service_port.name, service_port.endpoints, service_port.affinity_timeout)


def _is_held(name: ServicePortName, portal: Portal, actual: Actual) -> bool:
    return portal.kind is not PortalKind.NODE_PORT or (name.protocol, portal.port) in actual.node_ports
