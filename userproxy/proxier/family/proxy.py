"""One address family of a running proxy: its proxier, when that syncs, and the health checks of its Services."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, KeysView
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog

from userproxy.addresses import IPFamily
from userproxy.errors import KernelToolError
from userproxy.model import Differences, Endpoint, Node, Problem, ServicePortName
from userproxy.portals.interface import PortalDriver
from userproxy.portals.lease import Lease
from userproxy.portals.return_path.keeper import ReturnPathKeeper
from userproxy.proxier.conntrack.cleanup import ConntrackCleanup
from userproxy.proxier.drains.family import FamilyDrains
from userproxy.proxier.drains.table import DrainTable
from userproxy.proxier.family.health_ports import HealthPorts
from userproxy.proxier.family.holdings import Holdings
from userproxy.proxier.family.options import FamilyOptions, OthersCleaned, at_once, node_view, nothing_left
from userproxy.proxier.health_checks import HealthCheckServers
from userproxy.proxier.inspect.explanation import Explanation
from userproxy.proxier.inspect.reports import EndpointReport, FamilyDifferences, FamilyReport, ServicePortReport
from userproxy.proxier.inspect.surroundings import surroundings
from userproxy.proxier.interfaces import ClosableClaims, Conntrack, Forwarding, Nodes, PendingChanges, SyncObserver
from userproxy.proxier.proxier import Proxier
from userproxy.proxier.repairs import Repairs
from userproxy.proxier.runner import SyncRunner

log = structlog.get_logger()

_GIVE_UP_SECONDS: Final = 5.0
"""How long a stop waits for a sync that is writing rules. A sync that hangs keeps the successor waiting no longer."""
_TRY_PORTS_EVERY: Final = 0.1
_TOOLS_SECONDS: Final = 2.0
"""How long a predecessor waits until our tools turn out to work."""


class FamilyProxy:
    """Serves the Services of one family.

    `until_usable` returns once the driver's tools work. `conntrack` is None where no packet is translated. `nodes` is
    asked which addresses are those of Nodes. `report` is called when `problems` may have changed.
    `clean_up_after_others` removes what other drivers than the one it is given have left; it is called once the portals
    of that one stand, and after later verifying syncs until all is gone. The first time it may wait until then if a
    predecessor has done it.
    `return_path` is kept as long as the portals are ours; None where backends see the node's address.
    """

    def __init__(
        self,
        family: IPFamily,
        options: FamilyOptions,
        node: Node,
        *,
        changes: PendingChanges,
        forwarding: Forwarding,
        driver: PortalDriver,
        until_usable: Callable[[], Awaitable[None]],
        claims: ClosableClaims,
        conntrack: Conntrack | None,
        nodes: Nodes,
        health_checks: HealthCheckServers,
        observer: SyncObserver,
        report: Callable[[], None],
        clean_up_after_others: Callable[[PortalDriver, bool], Awaitable[OthersCleaned]] = nothing_left,
        return_path: ReturnPathKeeper | None = None,
        until_turn: Callable[[], Awaitable[None]] = at_once,
        drains: DrainTable | None = None,
    ) -> None:
        self.family = family
        self.holdings = Holdings(family, driver, claims, return_path, until_turn)
        self._options = options
        self._changes = changes
        self._until_usable = until_usable
        self._clean_up_after_others = clean_up_after_others
        self._alone = False
        """Whether nothing of another driver is left."""
        self._observer = observer
        self._report = report
        self._nodes = nodes
        self._nodes_version = nodes.version
        self._node = node
        self._node_view = scope, traffic = node_view(family, options, node)
        self._asked = self._usable = False
        self._settled = self._took_over = False
        """Whether a sync has succeeded yet, and whether that is to be so with a predecessor's listeners."""
        self._in_sync, self._in_sync_since = False, time.time()
        self._is_taken_in = asyncio.Event()
        self._moved = asyncio.Event()
        """Set when another driver has taken the place of the one before."""
        self._turn = asyncio.Lock()
        """Held by a sync: a stop gives the rules up between two syncs."""
        self._health_ports = HealthPorts(health_checks)
        self._reported: tuple[frozenset[Problem], tuple[Problem, ...]] = (frozenset(), ())
        driver.set_local_traffic(traffic)
        self.holdings.follow(traffic, scope.node_ips)
        self._conntrack_cleanup = ConntrackCleanup(conntrack) if conntrack is not None else None
        repairs = Repairs(options.sync_period)
        self._proxier = Proxier(
            changes,
            forwarding,
            driver,
            claims,
            scope,
            options.node_ports,
            self._conntrack_cleanup,
            nodes,
            repairs,
            None if return_path is None else return_path.stand,
            FamilyDrains(drains, lambda: self._syncs.request()),
        )
        self._syncs = SyncRunner(options.min_sync_period, options.sync_period, repairs)

    @property
    def driver(self) -> PortalDriver:
        """What brings packets to our listeners."""
        return self.holdings.driver

    @property
    def problems(self) -> frozenset[Problem]:
        """What is wanted of Services and not served, as of the last sync."""
        return self._proxier.problems.union(self._health_ports.problems)

    @property
    def service_ports(self) -> KeysView[ServicePortName]:
        """The names of the service ports that are wanted: a live view."""
        return self._proxier.service_ports

    def service_port(self, name: ServicePortName) -> ServicePortReport | None:
        """A service port as it is now; None if it is not wanted."""
        return self._proxier.report(name)

    def endpoints(self, name: ServicePortName) -> tuple[EndpointReport, ...]:
        """The endpoints of a service port."""
        state = self._changes.state(name.service)
        return () if state is None else self._proxier.endpoints(name, state)

    async def explain(self, name: ServicePortName, client: str, to: Endpoint | None) -> Explanation | None:
        """What becomes of a client's next connection to a portal of a service port; None if there is no such portal."""
        scope, traffic = self._node_view
        node = await asyncio.to_thread(surroundings, scope, traffic)
        return self._proxier.explain(name, client, to, node, self._changes.state)

    @property
    def status(self) -> FamilyReport:
        """Whether the portals stand as they are wanted."""
        reason = "" if self._in_sync else self._proxier.failure or self._why_no_sync
        services, slices = self._changes.pending
        return FamilyReport(
            self.family, self.driver.name, self._usable, self._in_sync, self._in_sync_since, reason, services, slices
        )

    async def differences(self) -> FamilyDifferences:
        """How the portals that stand differ from those that are wanted. Waits for a sync that is under way."""
        async with self._turn:
            driver = self.driver
            try:
                found = await driver.differences()
                if self.holdings.return_path is not None:
                    found = Differences(found.missing + await self.holdings.return_path.missing(), found.left_over)
                return FamilyDifferences(self.family, driver.name, found)
            except KernelToolError as error:
                return FamilyDifferences(self.family, driver.name, failure=str(error))

    @property
    def _why_no_sync(self) -> str:
        if not self._usable:
            return f"{self.family} is not served, because its rules cannot be read"
        if not self.holdings.have_been_ours:
            return (
                "another userproxy keeps the portals of this node" if self._asked else "what to serve is not known yet"
            )
        return "the first sync is under way"

    @property
    def serves(self) -> bool:
        """Whether the rules have been ours to write and have not been given up."""
        return self.holdings.have_been_ours and not self.holdings.are_given_up

    @property
    def contended(self) -> bool:
        """Whether another userproxy is ready to serve this family and waits for us."""
        return self.holdings.contended

    @property
    def may_have_predecessor(self) -> bool:
        """Whether ports may still be held by the process whose place we take."""
        return self.holdings.may_have_predecessor(usable=self._usable)

    def changed(self, node: Node | None) -> None:
        """The source has changes; `node` is our own Node as it is now, or None if there is none yet.

        The first call requests a sync in any case, later ones only if something changed for this family.
        """
        version = self._nodes.version
        concerned = not self._asked or bool(self._changes.waiting) or version != self._nodes_version
        self._nodes_version = version
        if node is not None and node is not self._node and node != self._node:
            self._node = node
            view = node_view(self.family, self._options, node)
            if view != self._node_view:
                self._node_view = view
                self._proxier.set_node(*view)
                self.holdings.follow(view[1], view[0].node_ips)
                concerned = True
        if concerned and not (self._settled and self._followed_at_once()):
            self._asked = True
            if self._usable or self.family is IPFamily.IPV4:  # a node without IPv6 tables is none the worse for it
                self._observer.queued()
            self._syncs.request()

    def set_periods(self, min_sync_period: float, sync_period: float) -> None:
        """Use other sync periods, in seconds, from the next sync on."""
        self._syncs.set_periods(min_sync_period, sync_period)

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The coroutines to run until the stop, by the names of their tasks."""
        tasks = {f"sync {self.family}": self._run(), f"watch portals {self.family}": self._watch()}
        if self._conntrack_cleanup is not None:
            tasks[f"stale conntrack entries {self.family}"] = self._conntrack_cleanup.run()
        if self.holdings.return_path is not None:
            tasks[f"return path {self.family}"] = self.holdings.return_path.watch()
        return tasks

    @property
    def writer_tasks(self) -> tuple[str, ...]:
        """The names of the tasks that a stop ends first: those that change, or wait to change, what a successor has."""
        cleanup, sync = f"stale conntrack entries {self.family}", f"sync {self.family}"
        return (cleanup,) if self.serves else (cleanup, sync)

    async def move_to(self, driver: PortalDriver) -> bool:
        """Have another driver bring packets to the same listeners; its traits are those of the one that serves now.

        Both stand for a moment, then what the one before has written is removed. Returns False, and goes on as before,
        where the other one cannot write, or this family does not serve yet or no longer.
        """
        async with self._turn:
            before = self.driver
            if not self.serves or not self._settled or before.lease is None:
                await driver.close()
                return False
            self._use(driver, before.lease)
            self._alone = False
            if await self._sync_now(verify=True):
                before.lease = Lease(self.family)  # what it had is the other one's, and must not go with it
                self._moved.set()
                return True
            driver.lease = Lease(self.family)
            self._use(before, before.lease)
            await self._sync_now(verify=True)
        await driver.close()
        return False

    def _use(self, driver: PortalDriver, lease: Lease) -> None:
        self.holdings.driver = driver
        driver.lease = lease
        driver.set_local_traffic(self._node_view[1])
        self._proxier.use(driver)

    async def _watch(self) -> None:
        """Have the driver that serves watch what stands, and close one that another has taken the place of."""
        while True:
            driver = self.driver
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(
                    driver.watch(self._syncs.verify), name=f"watch portals {self.family}: {driver.name}"
                )
                await self._moved.wait()
                watching.cancel()
            self._moved.clear()
            await driver.close()

    async def give_up(self) -> None:
        """Let another process write the rules, now or later. Clients that the rules still send to us stay served."""
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS), self._turn:
                self._retire()
        except TimeoutError:
            log.info("Rules are still being written while they are given up", family=self.family)
            self._retire()

    @property
    def settled(self) -> bool:
        """Whether it serves, and a sync has succeeded."""
        return self.serves and self._settled

    async def until_taken_in(self) -> None:
        """Return once all that is to be served at first is known here, or nobody has asked for it, or it cannot be."""
        if self._asked:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_taken_in.wait(), None if self._usable else _TOOLS_SECONDS)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """A context in which listeners, portals and claims stay as they are."""
        async with self._turn, self._proxier.held():
            yield

    def took_over(self) -> None:
        """All listeners of a predecessor are ours, so its rules lead to them, and it has cleaned up after others."""
        self._proxier.has_ports()
        self._took_over = True

    def leave_to_successor(self) -> None:
        """Do nothing any more: all is a successor's, which has copies of what we close."""
        self._retire()

    def _retire(self) -> None:
        self._proxier.retire()
        self.holdings.give_up()

    async def remove_return_path(self) -> bool:
        """Remove the way back of connections from clients' addresses, once there are none; whether nothing is left."""
        return self.holdings.return_path is None or await self.holdings.return_path.remove()

    async def close_health_checks(self) -> None:
        """Close the health check node ports for good: a successor needs them."""
        await self._health_ports.leave()

    async def close(self) -> None:
        """Release ports and threads. Portals stay as they are."""
        await self._health_ports.close()
        await self.holdings.close()

    async def _run(self) -> None:
        await self._until_usable()
        self._usable = True
        if self._asked:
            self._observer.queued()
        await self._syncs.run(self._sync, self._follow)

    async def _follow(self) -> bool:
        self._observer.follow_began()
        are_served = await self._proxier.follow()
        self._is_taken_in.set()
        if not are_served:
            return False
        self._observer.followed(self._changes.take_triggers(), self.driver.rule_counts, self._proxier.no_local)
        await self._sync_health_checks()
        self._report_changes()
        return True

    def _followed_at_once(self) -> bool:
        """Take over what can be taken over in this call; returns whether that is all."""
        self._observer.follow_began()
        if not self._proxier.follow_at_once():
            return False
        self._observer.followed_at_once(self._changes.take_triggers())
        return True

    async def _sync(self, verify: bool) -> bool:  # noqa: FBT001 -- as the runner calls it
        await self.holdings.acquire()
        async with self._turn:
            return await self._sync_now(verify=verify)

    async def _sync_now(self, *, verify: bool) -> bool:
        triggers = self._changes.take_triggers()
        self._observer.sync_began()
        ok = False
        try:
            ok = await self._proxier.sync(verify=verify)
        finally:
            self._note(in_sync=ok)
            self._observer.synced(triggers, self.driver.rule_counts, self._proxier.no_local, ok=ok)
        if ok:
            await self._settle(verified=verify)
            await self._sync_health_checks()
        self._report_changes()
        return ok

    def _note(self, *, in_sync: bool) -> None:
        if in_sync is not self._in_sync:
            self._in_sync, self._in_sync_since = in_sync, time.time()

    async def _settle(self, *, verified: bool) -> None:
        """A sync has succeeded."""
        if not self._alone and (verified or not self._settled) and not self.holdings.are_given_up:
            cleaned = await self._clean_up_after_others(self.driver, self._took_over and not self._settled)
            self._alone = cleaned.all_gone
            if cleaned.removed and self._conntrack_cleanup is not None:
                await self._conntrack_cleanup.look_again()  # before a predecessor is told that it may end
        if not self._settled:
            self._settled = True
            gc.freeze()  # most of what there is now will stay: the collector need not look through it again
        self.holdings.announce()

    def _report_changes(self) -> None:
        problems = (self._proxier.problems, self._health_ports.problems)
        if problems != self._reported:
            self._reported = problems
            self._report()

    async def _sync_health_checks(self) -> None:
        checks, ports = self._proxier.health_checks, self._health_ports
        if not ports.concern(checks):
            return
        addresses = self._proxier.node_port_ips
        if await ports.sync(checks, addresses, has_predecessor=self.may_have_predecessor):
            asyncio.get_running_loop().call_later(_TRY_PORTS_EVERY, self._syncs.request)
