"""Compares what is wanted of a service port with what there is, and plans the actions that are needed. Pure.

`binding` says what the portal driver is to program for a service port: a local port for each class of traffic, to which
the driver's rules then send it (REDIRECT or DNAT with iptables).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import TypeAlias

from msgspec import Struct, field, structs

from userproxy.model import (
    ClientAddress,
    Endpoint,
    IPFamily,
    ListenerName,
    Portal,
    PortalAddress,
    PortalBinding,
    PortalKind,
    Protocol,
    ServicePort,
    ServicePortName,
    Snapshot,
    Target,
    TrafficClass,
    Verdict,
)
from userproxy.proxier.local_addresses import LocalAddresses
from userproxy.proxier.loops import RoutingLoops
from userproxy.proxier.wanted import Wanted


class Claim(Struct, frozen=True, order=True, gc=False):
    """A local port that we hold so that no other program takes it. An empty `ip` is all addresses of the family."""

    ip: str
    protocol: Protocol
    port: int


class OpenListener(Struct, frozen=True, gc=False):
    """Open a listener, on `preferred_port` if possible. `verdict` is that of its first route."""

    name: ListenerName
    preferred_port: int | None = None
    verdict: Verdict = Verdict.REJECT


class ClaimPort(Struct, frozen=True):
    """Hold a local port that a portal of `owner` needs."""

    claim: Claim
    portal: Portal
    owner: ServicePortName


class UpdateRoute(Struct, frozen=True, gc=False):
    """Hand a new snapshot to forwarding. `looping` are the endpoints that it leaves out, see `loops`."""

    snapshot: Snapshot
    looping: tuple[Endpoint, ...] = ()


class CloseListener(Struct, frozen=True):
    """Close a listener to which no rule sends traffic any more."""

    name: ListenerName


class ReleasePort(Struct, frozen=True):
    """Release a local port that no portal of `owner` needs any more, unless another service port needs it."""

    claim: Claim
    owner: ServicePortName


Drained: TypeAlias = Callable[[Snapshot], Snapshot]
"""Takes the endpoints out of a snapshot that are drained."""

Action = OpenListener | ClaimPort | UpdateRoute | CloseListener | ReleasePort


class Step(Struct, frozen=True, gc=False):
    """What to do for one service port.

    The actions of `before` prepare what the new rules need; those of `after` remove what only the old rules needed. If
    the rules cannot be written, everything that the old ones need is still there.
    """

    before: tuple[OpenListener | ClaimPort | UpdateRoute, ...] = ()
    after: tuple[CloseListener | ReleasePort, ...] = ()


class Actual(Struct):
    """What there is in one address family. The proxier updates it with each action.

    `claims` has the claims that each service port needs, `holders` how many service ports need each claim. `programmed`
    are the bindings that the portal driver has confirmed.
    """

    family: IPFamily = IPFamily.IPV4
    local_ports: dict[ListenerName, int] = field(default_factory=dict)
    snapshots: dict[ListenerName, Snapshot] = field(default_factory=dict)
    claims: dict[ServicePortName, set[Claim]] = field(default_factory=dict)
    holders: Counter[Claim] = field(default_factory=Counter)
    programmed: dict[ServicePortName, PortalBinding] = field(default_factory=dict)

    def account(self, claim: Claim, owner: ServicePortName) -> None:
        """Note that `owner` needs a claim that is held."""
        self.claims.setdefault(owner, set()).add(claim)
        self.holders[claim] += 1

    def discharge(self, claim: Claim, owner: ServicePortName) -> bool:
        """Note that `owner` no longer needs a claim. Returns True if no other service port needs it."""
        self.claims[owner].remove(claim)
        if not self.claims[owner]:
            del self.claims[owner]
        self.holders[claim] -= 1
        if not self.holders[claim]:
            del self.holders[claim]
            return True
        return False


_NO_CLAIMS: frozenset[Claim] = frozenset()


class Pending(Struct):
    """What the portal driver is asked for and has not confirmed yet, and the actions to be done after that."""

    bindings: list[PortalBinding]
    gone: dict[ServicePortName, None]
    after: list[Action]


def plan(
    name: ServicePortName,
    wanted: Wanted,
    actual: Actual,
    local: LocalAddresses,
    loops: RoutingLoops,
    preferred_ports: Sequence[int] = (),
    drained: Drained = lambda snapshot: snapshot,
) -> Step:
    """The actions that turn what there is of a service port into what is wanted, which may be nothing.

    `preferred_ports` are the local ports that an earlier process had, in the order of its listeners. `drained` takes
    out what drains keep clients from.
    """
    port = wanted.ports.get(name)
    listeners = () if port is None else port.listeners
    verdicts = () if port is None else tuple(route.verdict for route in port.routes)
    needed = _claims(name, wanted, local)
    held = actual.claims.get(name, _NO_CLAIMS)
    before: tuple[OpenListener | ClaimPort | UpdateRoute, ...] = (
        *(
            OpenListener(listener, _preferred(position, preferred_ports), verdict)
            for position, (listener, verdict) in enumerate(zip(listeners, verdicts, strict=True))
            if listener not in actual.local_ports
        ),
        *(ClaimPort(claim, portal, name) for claim, portal in needed.items() if claim not in held),
        *(plan_routes([name], wanted, actual, loops, drained) if port is not None else ()),
    )
    after: tuple[CloseListener | ReleasePort, ...] = (
        *(CloseListener(listener) for listener in _open(name, actual) if listener not in listeners),
        *(ReleasePort(claim, name) for claim in sorted(held - needed.keys())),
    )
    return Step(before, after)


def plan_routes(
    names: Iterable[ServicePortName],
    wanted: Wanted,
    actual: Actual,
    loops: RoutingLoops,
    drained: Drained = lambda snapshot: snapshot,
) -> tuple[UpdateRoute, ...]:
    """The changed routes of `names`: the part of a plan that needs no other rules, and may be done at any time."""
    return tuple(
        update
        for name in names
        for each in snapshots_of(wanted.ports[name])
        if actual.snapshots.get(each.listener) != (update := _update(each, loops, drained)).snapshot
    )


def binding(name: ServicePortName, wanted: Wanted, actual: Actual, local: LocalAddresses) -> PortalBinding | None:
    """What the portal driver should program: the portals that are not withheld, and that need no claim or have it.

    None for a service port that is not wanted. If a listener could not be opened, its clients are refused: without a
    rule their packets would leave the node, and they would wait in vain for an answer.
    """
    port = wanted.ports.get(name)
    if port is None:
        return None
    targets = {route.traffic: _target(port, route.traffic, route.verdict, actual) for route in port.routes}
    return PortalBinding(
        name,
        _held(name, _portals(name, wanted, local), actual),
        internal=targets[TrafficClass.INTERNAL],
        external=targets[port.external],
        on_node=targets[port.on_node],
        source_ranges=port.source_ranges,
        health_check_port=port.health_check_port,
    )


def claim_of(name: ServicePortName, portal: Portal) -> Claim | None:
    """The claim that a portal needs, if any. Only node ports do: authors of Services cannot choose them freely."""
    if portal.kind is PortalKind.NODE_PORT:
        return Claim(portal.ip, name.protocol, portal.port)
    return None


def snapshots_of(service_port: ServicePort) -> tuple[Snapshot, ...]:
    """What forwarding needs to know of a service port: one snapshot for each of its listeners."""
    return tuple(
        Snapshot(
            listener,
            route.verdict,
            route.endpoints,
            service_port.affinity_timeout,
            service_port.known,
            service_port.udp_timeout,
            service_port.client_address,
            route.nodes,
            service_port.sends_proxy,
            service_port.accepts_proxy,
            service_port.balancer_access,
            portal=_only_portal(service_port, listener.traffic),
            balancer=service_port.balancer,
            weights=route.weights,
            ejection=service_port.ejection,
            limits=service_port.limits,
            hold=service_port.hold if route.verdict is Verdict.SERVE and not route.endpoints else None,
        )
        for listener, route in zip(service_port.listeners, service_port.routes, strict=True)
    )


def _only_portal(service_port: ServicePort, traffic: TrafficClass) -> PortalAddress | None:
    """The portal of a UDP listener's clients, if there is just one. TCP's are asked for theirs, one by one."""
    name = service_port.name
    if name.protocol is not Protocol.UDP:
        return None
    from_outside = traffic in (service_port.external, service_port.on_node)
    found = [
        portal
        for portal in service_port.portals
        if (traffic is TrafficClass.INTERNAL if portal.kind is PortalKind.CLUSTER_IP else from_outside)
    ]
    if len(found) != 1 or not found[0].ip:  # a node port is at every address of the node
        return None
    return PortalAddress(found[0].ip, name.protocol, found[0].port)


def shape(service_port: ServicePort) -> tuple[object, ...]:
    """All of a service port that rules, claims and listeners depend on; the rest is in its snapshots alone."""
    return (
        service_port.name,
        service_port.portals,
        service_port.created,
        [(route.traffic, route.verdict) for route in service_port.routes],
        service_port.external,
        service_port.on_node,
        service_port.source_ranges,
        service_port.health_check_port,
    )


def _update(snapshot: Snapshot, loops: RoutingLoops, drained: Drained) -> UpdateRoute:
    portals = loops.portals(snapshot.listener.service_port, snapshot.endpoints)
    if not portals:
        return UpdateRoute(drained(snapshot))
    looping = loops.looping(snapshot.listener.service_port, portals)
    if len(looping) < len(portals):
        # A portal's listener is on this node, as a Pod with hostNetwork may be: its answers leave for the client.
        snapshot = structs.replace(snapshot, client_address=ClientAddress.NODE)
    if not looping:
        return UpdateRoute(drained(snapshot))
    stays = [endpoint not in looping for endpoint in snapshot.endpoints]
    left = structs.replace(
        snapshot,
        endpoints=tuple(compress(snapshot.endpoints, stays)),
        nodes=tuple(compress(snapshot.nodes, stays)),
        weights=tuple(compress(snapshot.weights, stays)),
    )
    return UpdateRoute(drained(left), looping)


def _target(service_port: ServicePort, traffic: TrafficClass, verdict: Verdict, actual: Actual) -> Target:
    if verdict is not Verdict.SERVE:
        return Target(verdict)
    local_port = actual.local_ports.get(ListenerName(service_port.name, service_port.family, traffic))
    return Target(Verdict.REJECT) if local_port is None else Target(Verdict.SERVE, local_port, traffic)


def _preferred(position: int, ports: Sequence[int]) -> int | None:
    return ports[position] if position < len(ports) else None


def _claims(name: ServicePortName, wanted: Wanted, local: LocalAddresses) -> dict[Claim, Portal]:
    """The claims that the portals of a service port need, each with its portal."""
    portals = local.with_node_port_addresses(wanted.portals(name))
    return {claim: portal for portal in portals if (claim := claim_of(name, portal)) is not None}


def _portals(name: ServicePortName, wanted: Wanted, local: LocalAddresses) -> tuple[Portal, ...]:
    portals = wanted.portals(name)
    if withheld := local.withheld(name, portals, wanted.owners):
        portals = tuple(portal for portal in portals if portal not in withheld)
    return local.with_node_port_addresses(portals)


def _held(name: ServicePortName, portals: tuple[Portal, ...], actual: Actual) -> tuple[Portal, ...]:
    """Those of `portals` that need no claim or have it."""
    claims = actual.claims.get(name, _NO_CLAIMS)
    held = tuple(portal for portal in portals if (claim := claim_of(name, portal)) is None or claim in claims)
    return portals if len(held) == len(portals) else held


def _open(name: ServicePortName, actual: Actual) -> tuple[ListenerName, ...]:
    listeners = (ListenerName(name, actual.family, traffic) for traffic in TrafficClass)
    return tuple(listener for listener in listeners if listener in actual.local_ports)
