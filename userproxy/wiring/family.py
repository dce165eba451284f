"""One address family of a running proxy: its proxier, when that syncs, and the health-check ports of its Services."""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from userproxy.cluster.nodes import NodeAddresses
from userproxy.cluster.store import Changes
from userproxy.config import Settings
from userproxy.forwarding.forwarder import Forwarder
from userproxy.model import IPFamily, LocalTraffic, Node, Problem, ProblemKind, ServiceName
from userproxy.portals.claims import PortClaims
from userproxy.portals.conntrack import Conntrack
from userproxy.proxier.conntrack_cleanup import StaleFlows
from userproxy.proxier.health_checks import HealthCheckServers
from userproxy.proxier.proxier import Proxier
from userproxy.proxier.runner import SyncRunner
from userproxy.proxier.surroundings import NodePortAddresses
from userproxy.routing.local_traffic import local_traffic
from userproxy.routing.reserved_ports import ReservedPorts
from userproxy.routing.selection import Locality
from userproxy.routing.services import Scope
from userproxy.wiring.monitor import FamilyMonitor
from userproxy.wiring.portals import Driver, until_usable

log = structlog.get_logger()

_GIVE_UP_SECONDS: Final = 5.0
"""How long a stop waits for a sync that is writing rules. One that hangs keeps the successor waiting no longer."""

_PREDECESSOR_SECONDS: Final = 5.0
"""For so long after the rules have become ours the process that had them may still hold ports."""

_TRY_PORTS_EVERY: Final = 0.1


class FamilyProxy:
    """Serves the Services of one family. `report` is called when what is wrong may have changed.

    `nodes` is asked which addresses are those of Nodes.
    """

    def __init__(
        self,
        settings: Settings,
        node: Node,
        changes: Changes,
        forwarder: Forwarder,
        driver: Driver,
        monitor: FamilyMonitor,
        report: Callable[[], None],
        nodes: NodeAddresses,
    ) -> None:
        self.family = monitor.family
        self._sync_name = f"sync {self.family}"
        self._flows_name = f"stale conntrack entries {self.family}"
        self.driver = driver
        self._settings = settings
        self._changes = changes
        self._monitor = monitor
        self._report = report
        self._nodes = nodes
        self._nodes_version = nodes.version
        self._claims = PortClaims(self.family, forwarder)
        self._node = node
        self._node_view = self._seen_from(node)
        self._asked = False
        self._usable = False
        self._retired = False
        self._checks_health = True
        self._served_since: float | None = None
        self._made = time.monotonic()
        self._settled = False
        self._turn = asyncio.Lock()
        """Held by a sync: a stop gives the rules up between two."""
        self._reported: tuple[frozenset[Problem], tuple[Problem, ...]] = (frozenset(), ())
        monitor.count_pending(lambda: changes.pending)
        driver.set_local_traffic(self._node_view[1])
        self._flows = StaleFlows(Conntrack(self.family)) if driver.name != "none" else None
        self._proxier = Proxier(
            changes,
            forwarder,
            driver,
            self._claims,
            self._node_view[0],
            NodePortAddresses(settings.node_port_addresses, settings.localhost_node_ports, _reserved(settings)),
            self._flows,
            nodes,
        )
        self._syncs = SyncRunner(settings.min_sync_period, settings.sync_period)
        self._health_checks: HealthCheckServers | None = None
        self._health_check_ips: tuple[str, ...] | None = None
        self._serving = asyncio.Lock()
        self._failing_health_checks: list[Problem] = []
        self._failed_health_checks: tuple[Problem, ...] = ()
        """Those of the last sync that has ended: while one is under way, the other family may report."""

    @property
    def problems(self) -> frozenset[Problem]:
        """What is wanted and not served."""
        return self._proxier.problems.union(self._failed_health_checks)

    @property
    def serves(self) -> bool:
        """Whether rules have been ours to write, and have not been given up."""
        return self._served_since is not None and not self._retired

    @property
    def contended(self) -> bool:
        """Whether another userproxy is ready to serve this family and waits for us."""
        return self.driver.ownership is not None and self.driver.ownership.contended

    @property
    def may_have_predecessor(self) -> bool:
        """Whether ports may still be held by the process whose place we take."""
        if self.driver.ownership is None:
            return False
        since = self._served_since
        if since is None:
            if self._usable:
                return True
            since = self._made  # a family whose tools never work takes nobody's place
        return time.monotonic() - since < _PREDECESSOR_SECONDS

    def changed(self, node: Node | None) -> None:
        """The source has news; `node` is our own as it is now, or None where there is none yet.

        The first news ask for a sync in any case, later ones only if they concern this family.
        """
        concerned = not self._asked or bool(self._changes.waiting) or self._nodes.version != self._nodes_version
        self._nodes_version = self._nodes.version
        if node is not None and node != self._node:
            self._node = node
            view = self._seen_from(node)
            if view != self._node_view:
                self._node_view = view
                self._proxier.set_node(*view)
                concerned = True
        if concerned:
            self._asked = True
            if self._usable or self.family is IPFamily.IPV4:  # a node without IPv6 tables is none the worse for it
                self._monitor.reporter.queued()
            self._syncs.request()

    def apply(self, settings: Settings) -> None:
        """Follow what of the settings may change while running."""
        self._syncs.set_periods(settings.min_sync_period, settings.sync_period)

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What has to run until the stop."""
        tasks = {self._sync_name: self._run()}
        if self._flows is not None:
            tasks[self._flows_name] = self._flows.run()
        return tasks

    @property
    def names_of_writers(self) -> tuple[str, ...]:
        """The tasks that a stop ends first: those that change what a successor has, or wait to do so."""
        return (self._flows_name,) if self.serves else (self._flows_name, self._sync_name)

    async def give_up(self) -> None:
        """Let another process write the rules, now or later. Clients that rules still lead to us are served on."""
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS), self._turn:
                self._retire()
        except TimeoutError:
            log.info("Rules are still being written while they are given up", family=self.family)
            self._retire()

    def _retire(self) -> None:
        self._retired = True
        self._proxier.retire()
        self._claims.close()  # the successor needs them, and rules lead to us all the same
        if self.driver.ownership is not None:
            self.driver.ownership.release()

    async def close_health_checks(self) -> None:
        """Let a successor have the health-check node ports, for good."""
        self._checks_health = False
        async with self._serving:
            await self._close_health_checks()

    async def _close_health_checks(self) -> None:
        if self._health_checks is not None:
            await self._health_checks.close()

    async def close(self) -> None:
        """Let go of ports and threads. Portals stay as they are."""
        await self._close_health_checks()
        self._claims.close()
        await self.driver.close()

    async def _run(self) -> None:
        await until_usable(self.family, self.driver)
        self._usable = True
        if self._asked:
            self._monitor.reporter.queued()
        await self._syncs.run(self._sync, self._follow)

    async def _follow(self) -> bool:
        with self._monitor.following(self._changes.take_triggers) as outcome:
            outcome.ok = await self._proxier.follow()
        if outcome.ok:
            await self._stands()
        return outcome.ok

    async def _sync(self, verify: bool) -> bool:  # noqa: FBT001 -- as the runner calls it
        if self._served_since is None:
            if self.driver.ownership is not None:
                await self.driver.ownership.acquire()
            self._served_since = time.monotonic()
        async with self._turn:
            return await self._sync_now(verify=verify)

    async def _sync_now(self, *, verify: bool) -> bool:
        with self._monitor.syncing(self._changes.take_triggers()) as outcome:
            outcome.ok = await self._proxier.sync(verify=verify)
        if outcome.ok and not self._settled:
            self._settled = True
            gc.freeze()  # what serves now serves for long: nobody has to look through it for garbage again
        if outcome.ok and not self._retired and self.driver.ownership is not None:
            self.driver.ownership.announce()
        await self._stands(served=outcome.ok)
        return outcome.ok

    async def _stands(self, *, served: bool = True) -> None:
        """Tell what there is now."""
        self._monitor.stands(self.driver.rule_counts, self._proxier.no_local)
        if served:
            async with self._serving:
                if self._checks_health:
                    await self._serve_health_checks()
        problems = (self._proxier.problems, self._failed_health_checks)
        if problems != self._reported:
            self._reported = problems
            self._report()

    async def _serve_health_checks(self) -> None:
        ips = self._proxier.node_port_ips
        if self._health_checks is None or ips != self._health_check_ips:
            await self._close_health_checks()
            self._health_checks = HealthCheckServers(
                self.family,
                self._monitor.healthy,
                self._health_check_failed,
                self._monitor.health_check_connections,
                ips,
            )
            self._health_check_ips = ips
        patient = self.may_have_predecessor
        self._failing_health_checks.clear()
        await self._health_checks.sync(self._proxier.health_checks, patient=patient)
        if patient and self._failing_health_checks:
            asyncio.get_running_loop().call_later(_TRY_PORTS_EVERY, self._syncs.request)
        else:
            self._failed_health_checks = tuple(self._failing_health_checks)

    def _health_check_failed(self, service: ServiceName, text: str) -> None:
        self._failing_health_checks.append(Problem(service, ProblemKind.HEALTH_CHECK, text, here=True))

    def _seen_from(self, node: Node) -> tuple[Scope, LocalTraffic]:
        settings = self._settings
        ipv6 = self.family is IPFamily.IPV6
        scope = Scope(
            family=self.family,
            locality=Locality(node.name, node.zone),
            proxy_name=settings.proxy_name,
            external_ips_allowed=settings.external_ips_allowed,
            node_ips=tuple(ip for ip in node.addresses if (":" in ip) == ipv6),
            node_known=bool(node.addresses),
        )
        traffic = local_traffic(
            settings.detect_local_mode,
            settings.cluster_cidr,
            node.pod_cidrs,
            settings.bridge_interface,
            settings.interface_name_prefix,
            self.family,
        )
        return scope, traffic


def _reserved(settings: Settings) -> ReservedPorts:
    """The ports of the node's services: those of the flag, and our own."""
    own = {settings.metrics_bind_address.port}
    if settings.healthz_bind_address is not None:
        own.add(settings.healthz_bind_address.port)
    return ReservedPorts((*settings.reserved_node_ports.ranges, *((port, port) for port in sorted(own))))
