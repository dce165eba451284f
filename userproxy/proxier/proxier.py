"""The reconciler of one address family: takes over changes, performs plans, remembers what there is."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, KeysView, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain, islice
from typing import Final

import structlog

from userproxy.errors import KernelToolError, OutOfDescriptorsError, PortUnavailableError
from userproxy.model import (
    Endpoint,
    HealthCheck,
    LocalTraffic,
    PortalBinding,
    PortalSync,
    Problem,
    ServiceName,
    ServicePortName,
    ServiceState,
)
from userproxy.pace import Pace
from userproxy.portals.interface import PortalDriver
from userproxy.proxier.conntrack.cleanup import ConntrackCleanup
from userproxy.proxier.drains.family import FamilyDrains
from userproxy.proxier.endpoint_changes import EndpointChanges
from userproxy.proxier.executor import Executor, RulesLog
from userproxy.proxier.inspect.explanation import Explanation, Surroundings
from userproxy.proxier.inspect.inquiry import Inquiry
from userproxy.proxier.inspect.reports import EndpointReport, ServicePortReport
from userproxy.proxier.interfaces import Claims, Forwarding, Nodes, NoNodes, Source
from userproxy.proxier.local_addresses import LocalAddressTracker, NodePortAddresses
from userproxy.proxier.loops import AnyNodeAddress, RoutingLoops
from userproxy.proxier.plan import Action, Actual, CloseListener, Pending, binding, plan, plan_routes
from userproxy.proxier.problems import Problems, action_refused, contested, portals_refused
from userproxy.proxier.repairs import Repairs
from userproxy.proxier.service_map import ServiceMap
from userproxy.proxier.wanted import PortalKey
from userproxy.routing.services import NoLocalEndpoints, Scope

log = structlog.get_logger()

_PREPARING: Final = 0.5
"""The part of a slice after which a service port is the last one of it: each takes some 20 us."""


class Proxier:
    """Keeps listeners, balancers and portals of one address family as the source wants them.

    It acts in :meth:`follow` and :meth:`sync` only, which may overlap. `scope` is the family, where our node is, and
    which Services are ours. `conntrack` is None where no packet is translated, `nodes` where no other node is known.
    `need_return_path` is awaited before endpoints are to see clients' addresses.

    Each changed Service is applied to indexed state (`services`), and only the service ports that are affected are
    planned.
    """

    def __init__(
        self,
        source: Source,
        forwarding: Forwarding,
        portals: PortalDriver,
        claims: Claims,
        scope: Scope,
        node_ports: NodePortAddresses = NodePortAddresses(),  # noqa: B008 -- a frozen value: all of them
        conntrack: ConntrackCleanup | None = None,
        nodes: Nodes | None = None,
        repairs: Repairs | None = None,
        need_return_path: Callable[[], Awaitable[None]] | None = None,
        drains: FamilyDrains | None = None,
    ) -> None:
        self._source = source
        self._need_return_path = need_return_path
        self._drains = drains or FamilyDrains()
        self._forwarding = forwarding
        self._portals = portals
        self._scope = scope
        self._scope_taken = scope
        self._conntrack = conntrack
        self._nodes: Nodes = NoNodes() if nodes is None else nodes
        self._nodes_version = self._nodes.version
        self._services = ServiceMap()
        self._wanted = self._services.wanted
        self._local = LocalAddressTracker(portals, claims, self._wanted, node_ports, scope)
        self._actual = Actual(scope.family)
        self._executor = Executor(self._actual, self._wanted, forwarding, claims, self._nodes)
        self._endpoint_changes = EndpointChanges(source, self._services, self._actual, self._executor, self._drains)
        self._preferred: Mapping[ServicePortName, Sequence[int]] | None = None
        self._dirty: dict[ServicePortName, None] = {}
        """What the next sync has to plan: more than endpoints and affinity may have changed."""
        self._refused: dict[ServicePortName, None] = {}
        """Service ports that could not have a port they need: every sync tries again."""
        self._without_descriptor: dict[ServicePortName, None] = {}
        """Service ports that lack a descriptor: each sync tries as many again as there is room for."""
        self._unwritten: dict[ServicePortName, PortalBinding] = {}
        """Bindings that the driver was asked for and the node's tools refuse."""
        self._problems = Problems(scope.family)
        self._inquiry = Inquiry(self._wanted, self._actual, self._local, self._problems)
        self._confirmed = False
        """Whether the driver's last sync succeeded."""
        self.failure = ""
        """Why the last sync did not succeed; empty if it did, or is the first."""
        self._state = asyncio.Lock()
        """Held while state is edited, in slices; not while the driver writes."""
        self._node_version = 0
        """How often `set_node` was called."""
        self._node_version_synced = 0
        """What that was when the last good sync began."""
        self._retired = self._is_held = False
        self._rules_log = RulesLog(scope.family, are_rules=not portals.traits.binds_portals)
        self._repairs = Repairs(30.0) if repairs is None else repairs

    @property
    def problems(self) -> frozenset[Problem]:
        """What is wanted and not served, as of the last sync."""
        return self._problems.told

    @property
    def programmed(self) -> Mapping[ServicePortName, PortalBinding]:
        """The bindings that the portal driver has confirmed."""
        return self._actual.programmed

    @property
    def health_checks(self) -> tuple[HealthCheck, ...]:
        """The health-check node ports that Services ask for."""
        return self._services.health_checks

    @property
    def no_local(self) -> NoLocalEndpoints:
        """How many service ports have endpoints, but under a ``Local`` policy none that may serve."""
        return self._services.no_local

    @property
    def node_port_ips(self) -> tuple[str, ...] | None:
        """The local addresses that node ports are served on, as of the last sync; None is all of them."""
        return self._local.addresses.node_ports

    @property
    def service_ports(self) -> KeysView[ServicePortName]:
        """The names of the service ports that are wanted: a live view."""
        return self._wanted.ports.keys()

    def report(self, name: ServicePortName) -> ServicePortReport | None:
        """A service port as it is now; None if it is not wanted."""
        return self._inquiry.report(name, self._portals)

    def endpoints(self, name: ServicePortName, state: ServiceState) -> tuple[EndpointReport, ...]:
        """The endpoints of a service port, whose Service is now as `state` says."""
        return self._inquiry.endpoints(name, state, self._scope_taken.locality)

    def explain(
        self,
        name: ServicePortName,
        client: str,
        to: Endpoint | None,
        node: Surroundings,
        state_of: Callable[[ServiceName], ServiceState | None],
    ) -> Explanation | None:
        """See :meth:`Inquiry.explain`."""
        return self._inquiry.explain(name, client, to, node, self._portals, self._scope_taken.locality, state_of)

    def set_node(self, scope: Scope, local_traffic: LocalTraffic) -> None:
        """Use another scope, and recognise our Pods otherwise, from the next sync on."""
        self._scope = scope
        self._portals.set_local_traffic(local_traffic)
        self._node_version += 1

    def use(self, portals: PortalDriver) -> None:
        """Have another driver bring packets to the listeners, which is asked for everything by the next sync."""
        self._portals = portals
        self._local.use(portals)
        self._confirmed = False
        self._mark_dirty({*self._wanted.ports, *self._actual.programmed, *self._unwritten})

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """A context in which listeners, portals and claims stay as they are.

        So do routes, but for those that :meth:`follow_at_once` takes over.
        """
        async with self._state:
            self._is_held = True
            try:
                yield
            finally:
                self._is_held = False

    def has_ports(self) -> None:
        """All listeners that rules of a process before us lead to are here: nobody need look where they lead."""
        self._preferred = {}

    def retire(self) -> None:
        """Only update routes from now on: portals, claims and new listeners are a successor's."""
        self._retired = True

    async def follow(self) -> bool:
        """Take over changes as far as they need no other rules: endpoints and affinity.

        Returns True if the portals are as they should be, False if something is left for :meth:`sync` to do.
        """
        async with self._state:
            await self._take_changes()
        self._problems.tell()
        return self._retired or self._is_settled

    def follow_at_once(self) -> bool:
        """As :meth:`follow`, in this call. False also where changes are left that are more than other endpoints."""
        if self._retired or not self._is_settled or self._nodes_version != self._nodes.version:
            return False
        if self._state.locked() and not self._is_held:
            return False
        return self._endpoint_changes.take(self._scope_taken, of_many=self._is_held)

    @property
    def _is_settled(self) -> bool:
        """Whether the portals are as they should be."""
        return self._confirmed and not self._dirty and self._node_version == self._node_version_synced

    async def sync(self, *, verify: bool) -> bool:
        """Make what there is what the source wants; `verify` reads the portals back even if nothing changed.

        Returns True if the portals are as they should be. What one service port cannot have (a taken port, say) is
        logged, kept in `problems` and tried again by the next sync; it does not make the sync fail.
        """
        if self._retired:
            return await self.follow()
        version = self._node_version
        in_doubt = version != self._node_version_synced or not self._confirmed  # rules differ where no binding does
        try:
            planned = await self._converge_early() if verify and not in_doubt else 0
            planned += await self._converge(verify=verify or in_doubt)
        except KernelToolError as error:
            return self._unsynced(error)
        finally:
            self._problems.tell()
            self._forwarding.recount_descriptors()
        self._node_version_synced = version
        self.failure = ""
        listeners, problems = len(self._actual.local_ports), len(self._problems.told)
        log.debug("Synced", v=2, family=self._scope.family, listeners=listeners, planned=planned, problems=problems)
        return True

    def _unsynced(self, error: KernelToolError) -> bool:
        self._repairs.failed(time.monotonic())
        self.failure = str(error)
        if not self._retired:
            text = "Portals could not be synced; the last good ones stand"
            log.error(text, portals=self._portals.name, family=self._scope.family, reason=str(error))
        return self._retired

    async def _take_changes(self) -> None:
        """Apply the source's changes, and hand out the routes that need no other rules than there are."""
        if self._scope == self._scope_taken:
            changes: Mapping[ServiceName, ServiceState | None] = self._source.take_changes()
        else:
            everything = self._source.everything()
            changes = {**dict.fromkeys(self._services.names - everything.keys()), **everything}
            self._scope_taken = self._scope
        pace = Pace()
        for service, state in changes.items():
            change = self._services.update(service, state, self._scope_taken)
            if self._wanted.asks_for_clients and self._need_return_path is not None:
                await self._need_return_path()
            self._problems.put(service, change.left_out)
            for port in change.node_ports:
                self._forwarding.keep_off(port)
            if (portals := change.owners.portals) or change.reshaped:
                contenders = self._wanted.contenders(portals) | self._local.owners_changed(portals)
                self._mark_dirty({*change.reshaped, *contenders})
            self._drains.note(change.names, self._wanted, self._actual)
            await self._route(change.names, change.owners.destinations, pace)
            await pace.keep()
        if drained := list(self._drains.take(self._wanted, self._services.ports_of)):
            await self._route(drained, (), pace)
        if self._nodes_version != self._nodes.version:
            self._nodes_version = self._nodes.version
            # Any endpoint whose port is a node port may loop now, or no longer.
            await self._route((), [key for key in self._wanted.owners if not key[0]], pace)

    async def _route(self, names: Iterable[ServicePortName], destinations: Collection[PortalKey], pace: Pace) -> None:
        """Update the routes of `names`, and of those that loop, or no longer do, as `destinations` changed owners."""
        wanted = self._wanted
        concerned = {*names, *wanted.with_endpoints_at(destinations)}
        concerned |= wanted.with_endpoints_in(concerned)
        loops = self._loops()
        for name in concerned:
            if name in wanted.ports and (self._retired or name not in self._dirty):
                for update in plan_routes([name], wanted, self._actual, loops, self._drains.applied):
                    self._executor.update(update)
                await pace.keep()

    def _loops(self) -> RoutingLoops:
        """Valid as long as nothing is edited."""
        node_addresses = AnyNodeAddress(self._local.addresses.local, self._nodes)
        return RoutingLoops(self._wanted.ports, self._wanted.destinations, node_addresses)

    async def _converge_early(self) -> int:
        """Have changes be in force before a verification, which takes its time where there is much to read."""
        async with self._state:
            await self._take_changes()
        return await self._converge(verify=False) if self._dirty else 0

    async def _converge(self, *, verify: bool) -> int:
        """Plan and act; returns how many service ports were planned. Raises KernelToolError."""
        names: dict[ServicePortName, None] = {}
        try:
            async with self._state:
                await self._take_changes()
                if self._preferred is None:
                    self._preferred = await self._portals.local_ports()
                self._dirty |= await self._local.refresh(self._scope)
                crowded = dict.fromkeys(islice(self._without_descriptor, self._forwarding.room_for_ports))
                names, self._dirty = {**self._dirty, **self._refused, **crowded}, {}
                pending = await self._prepare(names)
            if self._retired:
                return 0  # a successor may have the rules by now, and needs the ports
            if pending.bindings or pending.gone or verify:
                self._confirmed = False
                began = time.monotonic()
                done = await self._portals.sync(pending.bindings, pending.gone, verify=verify)
                self._confirmed = True
                self._rules_log.written(
                    self._portals.rule_counts,
                    time.monotonic() - began,
                    service_ports=len(pending.bindings),
                    removed=len(pending.gone),
                    differed=done.differed,
                    changed_by=done.changed_by,
                )
                if verify:
                    self._note_repair(began, done, asked=bool(pending.bindings or pending.gone))
                await self._note_confirmed(pending, done)
            async with self._state:
                await self._finish(pending)
        except BaseException:
            self._dirty = {**names, **self._dirty}
            raise
        return len(names)

    def _note_repair(self, began: float, done: PortalSync, *, asked: bool) -> None:
        """Note whether others had changed what stood: where nothing new was `asked` for, only they can have."""
        repaired = done.differed and not asked
        self._repairs.synced(began, time.monotonic(), repaired=repaired, author=done.changed_by)
        self._problems.put("contested", contested(self._repairs.fight, self._scope.family))

    def _mark_dirty(self, names: Iterable[ServicePortName]) -> None:
        """Have the next sync plan these, and note which of their portals belong to others."""
        for name in names:
            self._dirty[name] = None
            self._problems.put(name, self._wanted.conflicts(name))

    async def _prepare(self, names: Iterable[ServicePortName]) -> Pending:
        """Prepare what new rules need; returns what they are to be, and what is to be done once they are written."""
        pending, pace, preferred, loops = Pending([], {}, []), Pace(_PREPARING), self._preferred or {}, self._loops()
        programmed = self._actual.programmed
        for name in names:
            if self._retired:
                break
            ports, drained = preferred.get(name, ()), self._drains.applied
            step = plan(name, self._wanted, self._actual, self._local.addresses, loops, ports, drained)
            self._attempt(name, step.before)
            withheld = self._local.addresses.withheld(name, self._wanted.portals(name), self._wanted.owners)
            self._problems.put(("withheld", name), tuple(withheld.values()))
            pending.after += step.after
            needed = binding(name, self._wanted, self._actual, self._local.addresses)
            if needed is not None and (needed != programmed.get(name) or not self._confirmed):
                pending.bindings.append(needed)
            elif needed is None and (name in programmed or name in self._unwritten or not self._confirmed):
                pending.gone[name] = None
            await pace.keep()
        return pending

    def _attempt(self, name: ServicePortName, actions: Iterable[Action]) -> None:
        refused: tuple[Problem, ...] = ()
        self._refused.pop(name, None)
        self._without_descriptor.pop(name, None)
        for action in actions:
            try:
                self._executor.perform(action)
            except PortUnavailableError as error:
                refused += action_refused(action, error, self._scope.family)
                again = self._without_descriptor if isinstance(error, OutOfDescriptorsError) else self._refused
                again[name] = None
        self._problems.put(("refused", name), refused)

    async def _finish(self, pending: Pending) -> None:
        """Remove what no rule needs any more, unless it is wanted again by now."""
        pace = Pace()
        for action in () if self._retired else pending.after:
            if not (isinstance(action, CloseListener) and self._wanted.has_listener(action.name)):
                self._executor.perform(action)
                await pace.keep()

    async def _note_confirmed(self, pending: Pending, done: PortalSync) -> None:
        """Note what the driver has programmed, and have conntrack entries deleted that contradict it."""
        pace, programmed, unwritten = Pace(), self._actual.programmed, self._unwritten
        asked: dict[ServicePortName, PortalBinding] = {}
        for each in pending.bindings:
            asked[each.name] = each
            await pace.keep()
        # Others that were refused may be accepted by now, and the reverse.
        others = [each for each in {*unwritten, *done.refused} if each not in asked and each not in pending.gone]
        before: list[PortalBinding] = []
        now: list[PortalBinding] = []
        for name in chain(pending.gone, asked, others):
            stood, waited = programmed.pop(name, None), unwritten.pop(name, None)
            if stood is not None:
                before.append(stood)
            binding = None if name in pending.gone else asked.get(name, waited or stood)
            problem: tuple[Problem, ...] = ()
            if binding is not None and name in done.refused:
                unwritten[name] = binding
                are_rules, family = not self._portals.traits.binds_portals, self._scope.family
                problem = portals_refused(name, done.refused[name], family, are_rules=are_rules)
            elif binding is not None:
                programmed[name] = binding
                now.append(binding)
            self._problems.put(("refused by the driver", name), problem)
            await pace.keep()
        if self._conntrack is not None:
            self._conntrack.changed(before, now)
            if done.differed:
                self._conntrack.repaired()
