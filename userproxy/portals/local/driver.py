"""The ``local`` driver: portals are made addresses of this node, and listened on. No netfilter, no conntrack."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

from userproxy.addresses import is_ipv6
from userproxy.errors import KernelToolError, ObjectError, PortUnavailableError
from userproxy.model import (
    Admission,
    Differences,
    IPFamily,
    LocalTraffic,
    PortalAddress,
    PortalBinding,
    PortalKind,
    PortalSync,
    ServicePortName,
)
from userproxy.pace import Pace
from userproxy.portals.host import (
    CAP_NET_ADMIN,
    CAP_NET_BIND_SERVICE,
    HostAddress,
    first_unprivileged_port,
    has_capability,
    pod_networks,
)
from userproxy.portals.interface import Cleaned, DriverOptions, PortalDriver, PortalListeners, Traits
from userproxy.portals.lease import Lease
from userproxy.portals.local.admissions import admissions, portal_ips
from userproxy.portals.local.conflicts import Conflicts
from userproxy.portals.local.routes import OURS, LocalRoutes
from userproxy.portals.netlink import address_text
from userproxy.portals.netlink.network_changes import NetworkChanges, Route
from userproxy.portals.netlink.rtnetlink import LOCAL_TABLE, MAIN_TABLE, UNICAST
from userproxy.portals.netlink.sock_diag import connections, why_not

log = structlog.get_logger()

T = TypeVar("T")

_LOOK_EVERY_SECONDS: Final = 1.0
"""How often it is looked whether a program has gone that has a port of ours: it costs a tenth of a millisecond."""


class LocalDriver(PortalDriver):
    """Has a route for each portal's address that no interface has, and a socket for each portal."""

    name = "local"
    traits = Traits(binds_portals=True)

    lease: Lease

    def __init__(self, options: DriverOptions) -> None:
        self._family = options.family
        self._host = HostAddress(options.bind_address, options.family)
        self._routes = LocalRoutes(options.family)
        self.lease = Lease(options.family)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="portals")
        self._local_traffic = LocalTraffic()
        self._bindings: dict[ServicePortName, PortalBinding] = {}
        self._served: dict[ServicePortName, Mapping[PortalAddress, Admission]] = {}
        self._by_host: set[ServicePortName] = set()
        """Those whose portals depend on the node's addresses, or on those of its Pods."""
        self._failing: dict[ServicePortName, AbstractSet[str]] = {}
        self._failing_ips: Counter[str] = Counter()
        """By how many service ports each address cannot be listened at, at any of their ports."""
        self._wanted_ips: Counter[str] = Counter()
        """By how many service ports each address is wanted as a portal's."""
        self._unsettled_ips: set[str] = set()
        """Those that may be wanted, or owned by the node, otherwise than when routes were last made or removed."""
        self._standing: set[str] = set()
        """The addresses that routes of ours make local, as far as is known."""
        self._routes_disturbed = False
        self._own_ips: frozenset[str] = frozenset()
        self._host_ip = ""
        self._pod_networks: tuple[str, ...] = ()
        self._conflicts = Conflicts(options.family)

    @staticmethod
    def unusable(family: IPFamily) -> str | None:  # noqa: ARG004 - a driver's signature
        """Why routes cannot be made here, or ports not be bound."""
        if not has_capability(CAP_NET_ADMIN):
            return "routes take the capability CAP_NET_ADMIN, which this process does not have"
        if not has_capability(CAP_NET_BIND_SERVICE) and first_unprivileged_port() > 1:
            return "ports under 1024 take the capability CAP_NET_BIND_SERVICE, which this process does not have"
        return None

    @staticmethod
    def clean_up(family: IPFamily, *, sparing: bool = False) -> Cleaned:
        """Remove the routes that any process has left; with `sparing` not those that connections need."""
        try:
            routes = LocalRoutes(family)
            used = (
                routes.standing().intersection(each.address for each in connections(family))
                if sparing
                else frozenset[str]()
            )
            in_use = (f"{len(used)} local routes of {family}",) if used else ()
            return Cleaned(said=tuple(_removed(routes, family, used)), in_use=in_use)
        except OSError as error:
            return Cleaned(failed=(f"local routes of {family}: connections cannot be listed: {why_not(error)}",))
        except KernelToolError as error:
            return Cleaned(failed=(str(error),))

    @property
    def rule_counts(self) -> dict[str, int]:
        """There are no rules."""
        return {}

    def set_local_traffic(self, local_traffic: LocalTraffic) -> None:
        """How this node's Pods are recognised from the next sync on."""
        self._local_traffic = local_traffic

    async def sync(
        self, bindings: Sequence[PortalBinding], gone: Collection[ServicePortName] = (), *, verify: bool = True
    ) -> PortalSync:
        """Listen at the portals of `bindings`, and no longer at those of what is `gone`.

        With `verify` the routes are read, and what is missing is made again. It differed if any was missing. Refused is
        who cannot listen at one of its portals, because a program of the node does; every sync tries again.
        """
        self.lease.take()
        for binding in bindings:
            self._want(binding.name, binding)
        for name in gone:
            self._want(name, None)
        changed = {*gone, *(binding.name for binding in bindings), *self._conflicts.names}
        if await self._run(self._look_at_host):
            changed.update(self._by_host)
        # Sockets come first, which can be bound to any address: nobody is led here and finds a closed port.
        await self._listen(changed)
        differed = await self._run(lambda: self._make_routes(verify=verify))
        await self._run(lambda: self._look_at_programs(verify=verify))
        return PortalSync(differed, self._conflicts.sentences)

    async def watch(self, disturbed: Callable[[], None]) -> None:
        """Call `disturbed` when somebody has deleted or replaced a route of ours, or the node's addresses changed.

        Also once a program has gone that kept us from listening.
        """
        await asyncio.gather(self._watch_network(disturbed), self._watch_programs(disturbed))

    async def differences(self) -> Differences:
        """How the routes that stand differ from those that are wanted, and where nobody can listen."""
        standing = await self._run(self._routes.standing)
        wanted = {ip for ip in self._wanted_ips if self._is_needed(ip)}
        return Differences(
            (*_route_texts(wanted - standing), *sorted(self._conflicts.sentences.values())),
            tuple(_route_texts(standing - wanted)),
        )

    async def local_ports(self) -> Mapping[ServicePortName, tuple[int, ...]]:
        """There are none, but the routes can be read. Raises KernelToolError where they cannot."""
        await self._run(self._routes.standing)
        return {}

    async def local_addresses(self) -> frozenset[str]:
        """The addresses of the family that interfaces have now, loopback's too. Raises KernelToolError."""
        return await self._run(self._host.addresses)

    async def remove(self) -> list[str]:
        """Remove every route of ours; a sentence for each kind. Raises KernelToolError."""
        try:
            self.lease.take()
        except KernelToolError as error:
            return [f"nothing, because {error}"]
        self._standing.clear()
        return await self._run(lambda: _removed(self._routes, self._family))

    async def close(self) -> None:
        """End the thread once it has finished what it does. Routes stay as they are."""
        await asyncio.to_thread(self._executor.shutdown)
        self.lease.release()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _watch_network(self, disturbed: Callable[[], None]) -> None:
        try:
            changes = NetworkChanges(self._family, self._concerns, self._missed)
            await changes.watch(lambda: self._run(self._is_disturbed), disturbed)
        except OSError as error:
            text = "The kernel does not tell of changes of routes and addresses: they show at the next full sync only"
            log.warning(text, family=self._family, reason=str(error))

    async def _watch_programs(self, disturbed: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
            if self._conflicts.are_of_programs and await self._run(self._conflicts.have_gone):
                disturbed()

    def _look_at_programs(self, *, verify: bool) -> None:
        if self._standing:
            self._conflicts.tell_wildcards()
        self._conflicts.look(again=verify)

    def _want(self, name: ServicePortName, binding: PortalBinding | None) -> None:
        before = self._bindings.pop(name, None)
        old = portal_ips(before, self._family) if before is not None else frozenset()
        new = portal_ips(binding, self._family) if binding is not None else frozenset()
        self._by_host.discard(name)
        if binding is not None:
            self._bindings[name] = binding
            if any(portal.kind is not PortalKind.CLUSTER_IP for portal in binding.portals):
                self._by_host.add(name)
        self._wanted_ips.update(new - old)
        self._wanted_ips.subtract(old - new)
        for ip in old - new:
            if not self._wanted_ips[ip]:
                del self._wanted_ips[ip]
        self._unsettled_ips |= old ^ new

    def _look_at_host(self) -> bool:
        """Whether the node's addresses, or those of its Pods, are others than at the last sync."""
        now = self._host_now()
        differs = now != (self._host_ip, self._own_ips, self._pod_networks)
        own = self._own_ips
        self._host_ip, self._own_ips, self._pod_networks = now
        self._unsettled_ips |= own ^ self._own_ips
        return differs

    def _host_now(self) -> tuple[str, frozenset[str], tuple[str, ...]]:
        """The node's address, empty if it has none, all that it has, and the networks of its Pods."""
        own = self._host.addresses()
        try:
            host_ip = self._host.lookup()
        except KernelToolError:
            host_ip = ""
        return host_ip, own, pod_networks(self._local_traffic, self._family)

    def _make_routes(self, *, verify: bool) -> bool:
        """Have routes for what is wanted and the node does not own; returns whether any was missing."""
        self.lease.check()
        known = self._standing
        theirs: AbstractSet[str] = frozenset()
        if verify:
            self._routes_disturbed = False
            ours, theirs = self._routes.standing_and_theirs()
            self._standing = set(ours)
            self._unsettled_ips |= self._standing | self._wanted_ips.keys()
        needed = {ip for ip in self._unsettled_ips if self._is_needed(ip)}
        missing, unneeded = needed - self._standing, (self._unsettled_ips - needed) & self._standing
        lost = (missing & known) - theirs if verify else set()
        self._routes.add(missing - lost)
        self._routes.add(lost, replace=True)  # there may be another's now
        self._standing |= missing
        self._standing -= unneeded  # before they go: what then is told of them is nobody else's work
        self._routes.remove(unneeded)
        self._unsettled_ips = set()
        return bool(lost)

    def _is_needed(self, ip: str) -> bool:
        """Not where nobody could listen: clients would reach whatever program is in the way."""
        return ip not in self._own_ips and self._wanted_ips[ip] > self._failing_ips[ip]

    def _concerns(self, route: Route) -> bool:
        if route.table == MAIN_TABLE:  # which says where the Pods behind interfaces are
            return bool(self._local_traffic.interface) and route.type == UNICAST
        if route.table != LOCAL_TABLE or not (route.is_gone or route.protocol != OURS):
            return False
        ours = bool(route.destination) and address_text(route.destination, 0, len(route.destination)) in self._standing
        self._routes_disturbed |= ours
        return ours

    def _missed(self) -> None:
        self._routes_disturbed = True

    def _is_disturbed(self) -> bool:
        """Whether the node's addresses are others than at the last sync, or a route of ours is not there."""
        disturbed, self._routes_disturbed = self._routes_disturbed, False
        try:
            if self._host_now() != (self._host_ip, self._own_ips, self._pod_networks):
                return True
            return disturbed and not self._standing <= self._routes.standing()
        except KernelToolError:
            return True

    async def _listen(self, names: Iterable[ServicePortName]) -> None:
        """Have the sockets of these service ports as they should be."""
        pace = Pace()
        leaving: list[PortalAddress] = []
        arriving: list[tuple[ServicePortName, Mapping[PortalAddress, Admission]]] = []
        ips = frozenset(ip for ip in self._own_ips if not _needs_scope(ip))
        for name in names:
            binding = self._bindings.get(name)
            wanted: Mapping[PortalAddress, Admission] = {}
            if binding is not None:
                wanted = admissions(binding, self._family, self._host_ip, ips, self._pod_networks)
            served = self._served.get(name, {})
            if wanted != served or name in self._conflicts.names:
                leaving += served.keys() - wanted.keys()
                arriving.append((name, wanted))
            await pace.keep()
        kept = {address for _, wanted in arriving for address in wanted}
        for address in leaving:
            if address not in kept:  # it is another service port's now, which takes it over
                self._forwarding.leave_portal(address)
                await pace.keep()
        for name, wanted in arriving:
            self._serve(name, wanted)
            await pace.keep()

    def _serve(self, name: ServicePortName, wanted: Mapping[PortalAddress, Admission]) -> None:
        """Listen at these portals, as far as that can be, and note what of it is done."""
        before = self._served.pop(name, {})
        served: dict[PortalAddress, Admission] = {}
        failures: dict[PortalAddress, PortUnavailableError | ObjectError] = {}
        for address, admission in wanted.items():
            try:
                if before.get(address) != admission:
                    self._forwarding.serve_portal(address, admission)
            except (PortUnavailableError, ObjectError) as error:
                failures[address] = error
            else:
                served[address] = admission
        if served:
            self._served[name] = served
        self._note_failing(name, {each.ip for each in failures} - {each.ip for each in served})
        self._conflicts.put(name, failures)

    def _note_failing(self, name: ServicePortName, ips: AbstractSet[str]) -> None:
        before = self._failing.pop(name, frozenset())
        if ips:
            self._failing[name] = ips
        self._failing_ips.update(ips - before)
        self._failing_ips.subtract(before - ips)
        for ip in before - ips:
            if not self._failing_ips[ip]:
                del self._failing_ips[ip]
        self._unsettled_ips |= before ^ ips

    @property
    def _forwarding(self) -> PortalListeners:
        if self._listeners is None:
            raise RuntimeError("listen_with comes before the first sync")
        return self._listeners


def _needs_scope(ip: str) -> bool:
    """Whether an address says nothing without its interface (RFC 4291, link-local)."""
    return is_ipv6(ip) and ip.lower().startswith(("fe8", "fe9", "fea", "feb"))


def _route_texts(ips: Iterable[str]) -> list[str]:
    return [f"local route to {ip}" for ip in sorted(ips)]


def _removed(routes: LocalRoutes, family: IPFamily, spared: Collection[str] = ()) -> list[str]:
    standing = routes.standing().difference(spared)
    routes.remove(standing)
    return [f"removed {len(standing)} local routes of {family}"] if standing else []
