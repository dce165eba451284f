"""The ``local`` driver: portals are made addresses of this node, and listened on. No netfilter, no conntrack."""

import asyncio
import errno
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from userproxy.addresses import is_ipv6
from userproxy.errors import KernelToolError, ObjectError, PortUnavailableError
from userproxy.model import (
    Admission,
    IPFamily,
    LocalTraffic,
    PortalAddress,
    PortalBinding,
    PortalSync,
    ServicePortName,
)
from userproxy.pace import Pace
from userproxy.portals.host import HostAddress, may_write_rules, pod_networks
from userproxy.portals.interface import Cleaned, DriverOptions, PortalDriver, PortalListeners, Traits
from userproxy.portals.lease import Lease
from userproxy.portals.local.admissions import admissions, portal_ips
from userproxy.portals.local.routes import LocalRoutes
from userproxy.portals.netlink.sock_diag import connected_addresses, why_not

log = structlog.get_logger()

T = TypeVar("T")

_MOST_TOLD = 5
"""Portals that are named in the sentence for a service port."""


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
        self._wanted_ips: Counter[str] = Counter()
        """By how many service ports each address is wanted as a portal's."""
        self._standing: set[str] = set()
        """The addresses that routes of ours make local, as far as is known."""
        self._own_ips: frozenset[str] = frozenset()
        self._pod_networks: tuple[str, ...] = ()
        self._refused: dict[ServicePortName, str] = {}

    @staticmethod
    def unusable(family: IPFamily) -> str | None:  # noqa: ARG004 - a driver's signature
        """Why routes cannot be made here."""
        return (
            None if may_write_rules() else "routes take the capability CAP_NET_ADMIN, which this process does not have"
        )

    @staticmethod
    def clean_up(family: IPFamily, *, sparing: bool = False) -> Cleaned:
        """Remove the routes that any process has left; with `sparing` not those that connections need."""
        try:
            routes = LocalRoutes(family)
            used = connected_addresses(family) & routes.standing() if sparing else frozenset[str]()
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
        changed = {*gone, *(binding.name for binding in bindings), *self._refused}
        if await self._run(self._look_at_host):
            changed.update(self._bindings)
        differed = await self._run(lambda: self._add_routes(verify=verify))
        await self._listen(changed)
        await self._run(self._remove_routes)
        return PortalSync(differed, dict(self._refused))

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

    def _want(self, name: ServicePortName, binding: PortalBinding | None) -> None:
        before = self._bindings.pop(name, None)
        if before is not None:
            self._wanted_ips.subtract(portal_ips(before, self._family))
        if binding is not None:
            self._bindings[name] = binding
            self._wanted_ips.update(portal_ips(binding, self._family))

    def _look_at_host(self) -> bool:
        """Whether the node's addresses, or those of its Pods, are others than at the last sync."""
        own, pods = self._host.addresses(), pod_networks(self._local_traffic, self._family)
        differs = (own, pods) != (self._own_ips, self._pod_networks)
        self._own_ips, self._pod_networks = own, pods
        return differs

    def _add_routes(self, *, verify: bool) -> bool:
        self.lease.check()
        before = frozenset(self._standing)
        if verify:
            self._standing = set(self._routes.standing())
        needed = {ip for ip, count in self._wanted_ips.items() if count > 0} - self._own_ips
        missing = needed - self._standing
        self._routes.add(missing)
        self._standing |= missing
        return bool(before & missing)

    def _remove_routes(self) -> None:
        self.lease.check()
        unneeded = {ip for ip in self._standing if self._wanted_ips[ip] <= 0 or ip in self._own_ips}
        self._wanted_ips = +self._wanted_ips
        self._routes.remove(unneeded)
        self._standing -= unneeded

    async def _listen(self, names: Iterable[ServicePortName]) -> None:
        """Have the sockets of these service ports as they should be."""
        pace = Pace()
        leaving: list[PortalAddress] = []
        arriving: list[tuple[ServicePortName, Mapping[PortalAddress, Admission]]] = []
        ips = frozenset(ip for ip in self._own_ips if not _needs_scope(ip))
        for name in names:
            binding = self._bindings.get(name)
            wanted = {} if binding is None else admissions(binding, self._family, ips, self._pod_networks)
            leaving += self._served.pop(name, {}).keys() - wanted.keys()
            if wanted:
                arriving.append((name, wanted))
            self._refused.pop(name, None)
            await pace.keep()
        kept = {address for _, wanted in arriving for address in wanted}
        for address in leaving:
            if address not in kept:  # it is another service port's now, which takes it over
                self._forwarding.leave_portal(address)
                await pace.keep()
        for name, wanted in arriving:
            self._served[name] = self._serve(name, wanted)
            await pace.keep()

    def _serve(
        self, name: ServicePortName, wanted: Mapping[PortalAddress, Admission]
    ) -> Mapping[PortalAddress, Admission]:
        """Listen at these portals; returns those where it is done."""
        served, refusals = {}, []
        for address, admission in wanted.items():
            try:
                self._forwarding.serve_portal(address, admission)
            except (PortUnavailableError, ObjectError) as error:
                refusals.append(_sentence(address, error))
            else:
                served[address] = admission
        if refusals:
            self._refused[name] = "; ".join(refusals[:_MOST_TOLD])
        return served

    @property
    def _forwarding(self) -> PortalListeners:
        if self._listeners is None:
            raise RuntimeError("listen_with comes before the first sync")
        return self._listeners


def _sentence(address: PortalAddress, error: PortUnavailableError | ObjectError) -> str:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
        return f"{address}: a program of this node listens on this port of every address"
    return f"{address}: {error}"


def _needs_scope(ip: str) -> bool:
    """Whether an address says nothing without its interface (RFC 4291, link-local)."""
    return is_ipv6(ip) and ip.lower().startswith(("fe8", "fe9", "fea", "feb"))


def _removed(routes: LocalRoutes, family: IPFamily, spared: Collection[str] = ()) -> list[str]:
    standing = routes.standing().difference(spared)
    routes.remove(standing)
    return [f"removed {len(standing)} local routes of {family}"] if standing else []
