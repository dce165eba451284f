"""The executor: performs plans, remembers what there is, and says what is wrong."""

from collections.abc import Iterator, Mapping, Sequence

import structlog
from msgspec import Struct

from userproxy.errors import KernelToolError, PortUnavailableError
from userproxy.model import (
    Endpoint,
    HealthCheck,
    IPFamily,
    ListenerName,
    LocalTraffic,
    PortalBinding,
    PortalKind,
    Problem,
    ProblemKind,
    ServiceName,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from userproxy.proxier.circles import Reachable
from userproxy.proxier.flows import StaleFlows
from userproxy.proxier.own_addresses import contested, withhold
from userproxy.proxier.plan import (
    Action,
    Actual,
    ClaimPort,
    CloseListener,
    Granted,
    OpenListener,
    ReleasePort,
    SyncPortals,
    UpdateRoute,
    bindings,
    grant_portals,
    place_node_ports,
    plan,
    plan_routes,
    shape,
)
from userproxy.proxier.seams import Claims, Forwarding, Nodes, PortalDriver, Source
from userproxy.routing.node_ports import node_port_ips
from userproxy.routing.reserved_ports import NODE_SERVICES, ReservedPorts
from userproxy.routing.services import NoLocalEndpoints, Routed, Scope, service_ports

log = structlog.get_logger()


class NodePortAddresses(Struct, frozen=True):
    """Where node ports are served: kube-proxy's ``nodePortAddresses`` and ``iptables.localhostNodePorts``.

    `reserved` are ports of the node's own services, which no other kind of portal on its addresses may have.
    """

    cidrs: tuple[str, ...] = ()
    localhost: bool = True
    reserved: ReservedPorts = NODE_SERVICES


class _Listed:
    """Endpoints as the log shows them, written only if it does."""

    __slots__ = ("_endpoints",)

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints

    def __repr__(self) -> str:
        return " ".join(map(str, self._endpoints))


class _Known(Struct, frozen=True):
    """What the last look at a Service found, beside its service ports."""

    names: tuple[ServicePortName, ...] = ()
    left_out: tuple[Problem, ...] = ()


class _NoNodes(frozenset[str]):
    """Nothing is known of other nodes."""

    version = 0
    presuming = False


_NOTHING = _Known()
_EVERYWHERE = NodePortAddresses()
_MOST_LISTED = 5


class Proxier:
    """Keeps listeners, balancers and portals of one address family as the source wants them.

    It acts in :meth:`sync` alone. `scope` is how we look at Services: the family, where our node is, which of them
    are ours. `flows` is None where no packet is translated, `nodes` where nothing is known of other nodes.
    """

    def __init__(
        self,
        source: Source,
        forwarding: Forwarding,
        portals: PortalDriver,
        claims: Claims,
        scope: Scope,
        node_ports: NodePortAddresses = _EVERYWHERE,
        flows: StaleFlows | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        self._source = source
        self._forwarding = forwarding
        self._portals = portals
        self._claims = claims
        self._scope = scope
        self._scope_taken = scope
        self._node_ports = node_ports
        self._flows = flows
        self._nodes: Nodes = _NoNodes() if nodes is None else nodes
        self._nodes_version = self._nodes.version
        self._left_out: dict[ListenerName, tuple[Endpoint, ...]] = {}
        """Endpoints that are not used because they lead back, by listener, as they were told last."""
        self._known: dict[ServiceName, _Known] = {}
        self._health_checks: dict[ServiceName, HealthCheck] = {}
        self._no_local: dict[ServiceName, NoLocalEndpoints] = {}
        self._wanted: dict[ServicePortName, ServicePort] = {}
        self._granted = Granted({}, ())
        self._placed = Granted({}, ())
        self._local_addresses: frozenset[str] = frozenset()
        self._actual = Actual()
        self._preferred: Mapping[ServicePortName, Sequence[int]] | None = None
        self._problems: frozenset[Problem] = frozenset()
        self._refused: tuple[Problem, ...] = ()
        self._settled = False
        self._node_said = 0
        """Counts what was said of the node; a sync that runs meanwhile is behind, and says so in `_node_synced`."""
        self._node_synced = 0
        self._retired = False

    @property
    def problems(self) -> frozenset[Problem]:
        """What is wanted and not served, as of the last sync."""
        return self._problems

    @property
    def programmed(self) -> tuple[PortalBinding, ...]:
        """The bindings that the portal driver has confirmed."""
        return self._actual.programmed or ()

    @property
    def health_checks(self) -> tuple[HealthCheck, ...]:
        """The health-check node ports that Services ask for."""
        return tuple(self._health_checks.values())

    @property
    def no_local(self) -> NoLocalEndpoints:
        """How many service ports have endpoints, but under a ``Local`` policy none that may serve."""
        return NoLocalEndpoints(
            sum(each.internal for each in self._no_local.values()),
            sum(each.external for each in self._no_local.values()),
        )

    def set_node(self, scope: Scope, local_traffic: LocalTraffic) -> None:
        """Look at Services so, and recognise our Pods so, from the next sync on."""
        self._scope = scope
        self._portals.set_local_traffic(local_traffic)
        self._node_said += 1

    def retire(self) -> None:
        """Only hand out routes from now on: portals, claims and new listeners are a successor's."""
        self._retired = True

    async def sync(self, *, verify: bool) -> bool:
        """Bring what there is in line with the source; `verify` reads the portals back even if nothing changed.

        True if the portals stand as they should. What one service port cannot have (a taken port, say)
        is logged, kept in `problems` and tried again by the next sync; it does not fail the others.
        """
        changed, reshaped = self._take_changes()
        said = self._node_said
        verify = verify or said != self._node_synced  # rules may differ though the bindings are the same
        if self._retired and reshaped:
            self._granted = grant_portals(self._wanted.values())
        if self._nodes_version != self._nodes.version:
            self._nodes_version = self._nodes.version
            self._settled = False  # any endpoint at a node port's number may lead back now, or no longer
        if self._retired or (self._settled and not reshaped and not verify):
            reachable = Reachable(self._local_addresses, self._nodes)
            actions: tuple[Action, ...] = plan_routes(self._wanted, self._granted, changed, self._actual, reachable)
            for action in actions:
                await self._perform(action)
        else:
            if reshaped:
                self._granted = grant_portals(self._wanted.values())
            self._settled = False
            try:
                actions = await self._converge(verify=verify)
            except KernelToolError as error:
                text = "Portals could not be synced; the last good ones stand"
                log.error(text, portals=self._portals.name, family=self._scope.family, reason=str(error))
                return False
            finally:
                self._report()
                self._forwarding.recount_descriptors()
            self._settled = True
            self._node_synced = said
        log.debug(
            "Synced",
            v=2,
            family=self._scope.family,
            listeners=len(self._actual.local_ports),
            actions=len(actions),
            problems=len(self._problems),
        )
        return True

    def _take_changes(self) -> tuple[list[ServicePortName], bool]:
        """Take over what changed: the service ports concerned, and whether more than endpoints and affinity are new."""
        if self._scope == self._scope_taken:
            changes: Mapping[ServiceName, ServiceState | None] = self._source.take_changes()
        else:
            everything = self._source.everything()
            changes = {**dict.fromkeys(self._known.keys() - everything.keys()), **everything}
            self._scope_taken = self._scope
        changed: list[ServicePortName] = []
        reshaped = False
        for service, state in changes.items():
            reshaped |= self._take(service, state)
            changed += self._known.get(service, _NOTHING).names
        return changed, reshaped

    def _take(self, service: ServiceName, state: ServiceState | None) -> bool:
        """Take over a changed Service. True if more than endpoints and affinity are new."""
        known = self._known.pop(service, _NOTHING)
        self._health_checks.pop(service, None)
        self._no_local.pop(service, None)
        before = [shape(self._wanted.pop(name)) for name in known.names]
        if state is None:
            return bool(before or known.left_out)
        routed = service_ports(state, self._scope)
        if routed.skipped is not None:
            log.debug("Service skipped", v=3, service=str(service), family=self._scope.family, reason=routed.skipped)
        self._wanted.update((port.name, port) for port in routed.ports)
        names = tuple(port.name for port in routed.ports)
        for node_port in _node_ports(routed):
            self._forwarding.keep_off(node_port)
        if names or routed.left_out:
            self._known[service] = _Known(names, routed.left_out)
        if routed.health_check is not None:
            self._health_checks[service] = routed.health_check
        if routed.no_local.internal or routed.no_local.external:
            self._no_local[service] = routed.no_local
        return before != [shape(port) for port in routed.ports] or known.left_out != routed.left_out

    async def _converge(self, *, verify: bool) -> tuple[Action, ...]:
        """Compare everything with everything, and act. Raises KernelToolError."""
        if self._preferred is None:
            self._preferred = await self._portals.local_ports()
        self._local_addresses = await self._portals.local_addresses()
        self._placed = await self._give_way(place_node_ports(self._granted, self.node_port_ips))
        reachable = Reachable(self._local_addresses, self._nodes)
        actions = plan(self._wanted, self._placed, self._actual, self._preferred, reachable, verify=verify)
        self._refused = ()
        for action in actions:
            try:
                await self._perform(action, verify=verify)
            except PortUnavailableError as error:
                self._refused += _refusal(action, error, self._scope.family)
        return actions

    async def _give_way(self, granted: Granted) -> Granted:
        """The same without the portals that this node's own programs need."""
        places = contested(granted, self._local_addresses)
        return withhold(
            granted,
            places,
            taken=await self._claims.taken(places),
            reserved=self._node_ports.reserved,
            node_ips=self._scope.node_ips,
        )

    @property
    def node_port_ips(self) -> tuple[str, ...] | None:
        """The local addresses that node ports are served on, as of the last sync; None is all of them."""
        return node_port_ips(
            self._node_ports.cidrs,
            self._local_addresses,
            self._scope.family,
            node_ips=self._scope.node_ips if self._scope.node_known else None,
            localhost=self._node_ports.localhost,
        )

    async def _perform(self, action: Action, *, verify: bool = False) -> None:
        actual = self._actual
        match action:
            case OpenListener(name, preferred_port):
                actual.local_ports[name] = self._forwarding.open(name, preferred_port)
                log.debug("Listener opened", v=1, service_port=str(name), local_port=actual.local_ports[name])
            case ClaimPort(claim):
                self._claims.claim(claim.ip, claim.protocol, claim.port)
                actual.claims.add(claim)
            case UpdateRoute(snapshot, circular):
                if snapshot.listener in actual.local_ports:
                    self._tell_left_out(snapshot.listener, circular)
                    self._forwarding.update(snapshot)
                    actual.snapshots[snapshot.listener] = snapshot
                    log.debug(
                        "Endpoints",
                        v=3,
                        service_port=str(snapshot.listener),
                        verdict=snapshot.verdict,
                        endpoints=_Listed(snapshot.endpoints),
                    )
            case SyncPortals():
                wanted = bindings(self._wanted, self._placed, actual)
                done = await self._portals.sync(wanted, verify=verify)
                standing = tuple(binding for binding in wanted if binding.name not in done.refused)
                before, actual.programmed = actual.programmed or (), standing
                self._refused += tuple(_unwritten(*each, self._scope.family) for each in done.refused.items())
                self._unpin_flows(before, differed=done.differed)
            case CloseListener(name):
                self._forwarding.close(name)
                del actual.local_ports[name]
                actual.snapshots.pop(name, None)
                self._left_out.pop(name, None)
                log.debug("Listener closed", v=1, service_port=str(name))
            case ReleasePort(claim):
                self._claims.release(claim.ip, claim.protocol, claim.port)
                actual.claims.discard(claim)

    def _tell_left_out(self, listener: ListenerName, endpoints: tuple[Endpoint, ...]) -> None:
        if endpoints != self._left_out.pop(listener, ()) and endpoints:
            listed = ", ".join(map(str, endpoints[:_MOST_LISTED]))
            more = f" and {len(endpoints) - _MOST_LISTED} more" if len(endpoints) > _MOST_LISTED else ""
            may_be = ", or may be one until Nodes are looked up" if self._nodes.presuming else ""
            log.warning(f"{listener}: not used as an endpoint: {listed}{more}; a portal{may_be}, it leads back here")
        if endpoints:
            self._left_out[listener] = endpoints

    def _unpin_flows(self, before: tuple[PortalBinding, ...], *, differed: bool) -> None:
        """Have the kernel forget where clients were led, if rules lead them elsewhere or were not there."""
        if self._flows is None:
            return
        same = set(before).intersection(self.programmed)
        self._flows.changed(
            (each for each in before if each not in same), (each for each in self.programmed if each not in same)
        )
        if differed:
            self._flows.repaired()

    def _report(self) -> None:
        left_out = (problem for known in self._known.values() for problem in known.left_out)
        current = frozenset((*self._placed.conflicts, *left_out, *self._refused))
        for text in sorted(problem.text for problem in current - self._problems):
            log.warning(text, family=self._scope.family)
        for text in sorted(problem.text for problem in self._problems - current):
            log.info("No longer so", problem=text, family=self._scope.family)
        self._problems = current


def _node_ports(routed: Routed) -> Iterator[int]:
    """What the API server gave a Service of its range of node ports."""
    for service_port in routed.ports:
        yield from (portal.port for portal in service_port.portals if portal.kind is PortalKind.NODE_PORT)
    if routed.health_check is not None:
        yield routed.health_check.port


def _unwritten(name: ServicePortName, reason: str, family: IPFamily) -> Problem:
    text = f"{name}: its portals are not served over {family}, because their rules are refused: {reason}"
    return Problem(name.service, ProblemKind.PORTALS_REFUSED, text)


def _refusal(action: Action, error: PortUnavailableError, family: IPFamily) -> tuple[Problem, ...]:
    match action:
        case ClaimPort(claim, portal, name):
            text = f"{name}: {portal} ({claim.protocol}) is not served over {family}: {error}"
            return (Problem(name.service, ProblemKind.PORT_CONFLICT, text, here=True),)
        case OpenListener(listener):
            text = f"{listener}: not served: {error}"
            return (Problem(listener.service_port.service, ProblemKind.PORT_CONFLICT, text, here=True),)
        case _:
            raise error
