"""What the drivers have in common that have the kernel translate packets for portals (NAT)."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from msgspec import structs

from userproxy.errors import KernelToolError
from userproxy.model import Differences, LocalTraffic, PortalBinding, PortalSync, ServicePortName
from userproxy.portals.conntrack_guard import ConntrackGuard
from userproxy.portals.host import HostAddress
from userproxy.portals.interface import DriverOptions, PortalDriver, Traits
from userproxy.portals.lease import Lease
from userproxy.portals.netlink.network_changes import NetworkChanges
from userproxy.portals.netlink.ruleset import Ruleset

log = structlog.get_logger()

T = TypeVar("T")


class TranslatingDriver(PortalDriver):
    """Has what blocks done by one thread of the driver's own, in the order of the calls; holds the lease meanwhile.

    Watches the node's addresses, of which packets are translated to one, and what `ruleset` tells of changes of rules.
    """

    traits = Traits(translates=True)
    lease: Lease

    def __init__(self, options: DriverOptions, ruleset: Ruleset) -> None:
        self._family = options.family
        self._bind_address = options.bind_address
        self._host = HostAddress(options.bind_address, options.family)
        self._local_traffic = LocalTraffic()
        self._ruleset = ruleset
        self._guard = ConntrackGuard(options.family, with_table=options.guard)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="portals")
        self._addresses: frozenset[str] = frozenset()
        """Those of interfaces, as the proxier knows them."""
        self.lease = Lease(options.family)
        """Taken by a sync that finds it free, and given back by :meth:`close`."""

    def set_local_traffic(self, local_traffic: LocalTraffic) -> None:
        """How this node's Pods are recognised from the next sync on."""
        self._local_traffic = local_traffic

    async def sync(
        self, bindings: Sequence[PortalBinding], gone: Collection[ServicePortName] = (), *, verify: bool = True
    ) -> PortalSync:
        """Makes these bindings stand in place of those of the same names, and those that are `gone` no more.

        Raises KernelToolError where nothing can be written, another userproxy keeps the portals, or they are given up,
        also while this goes on.
        """
        local_traffic = self._local_traffic
        with self._ruleset.syncing():
            done = await self._run(lambda: self._sync(bindings, gone, local_traffic, verify=verify))
        return structs.replace(done, changed_by=self._ruleset.take_authors()) if verify else done

    async def watch(self, disturbed: Callable[[], None]) -> None:
        """Calls `disturbed` when others have changed what concerns our rules, or the node's addresses are others."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_rules(disturbed), name=f"watch rules {self._family}")
            group.create_task(self._watch_network(disturbed), name=f"watch network {self._family}")

    async def differences(self) -> Differences:
        """How the rules that stand differ from those that are wanted. Raises KernelToolError."""
        return await self._run(self._differences)

    async def local_ports(self) -> Mapping[ServicePortName, Sequence[int]]:
        """The local ports to which an earlier process leads each service port, that of its cluster IP first.

        Raises KernelToolError.
        """
        return await self._run(self._local_ports)

    async def local_addresses(self) -> frozenset[str]:
        """The addresses of the family that interfaces have now, loopback's too. Raises KernelToolError."""
        return await self._run(self._look_at_addresses)

    async def remove(self) -> Sequence[str]:
        """Removes everything of ours; a sentence for each. Raises KernelToolError.

        That of another userproxy, which is not ours, stays.
        """
        return await self._run(self._leased_removal)

    async def close(self) -> None:
        """Ends the thread once it has finished what it does. Rules stay as they are."""
        await asyncio.to_thread(self._executor.shutdown)
        self._guard.close()
        self.lease.release()

    @abstractmethod
    def _sync(
        self,
        bindings: Sequence[PortalBinding],
        gone: Collection[ServicePortName],
        local_traffic: LocalTraffic,
        *,
        verify: bool,
    ) -> PortalSync:
        """As :meth:`sync`; blocking, as the next ones."""

    @abstractmethod
    def _differences(self) -> Differences:
        """As :meth:`differences`."""

    @abstractmethod
    def _local_ports(self) -> Mapping[ServicePortName, Sequence[int]]:
        """As :meth:`local_ports`."""

    @abstractmethod
    def _remove(self) -> Sequence[str]:
        """As :meth:`remove`, while the lease is held."""

    @abstractmethod
    def _is_elsewhere(self) -> bool:
        """Whether the node's addresses are others than when rules were last written, or could not be."""

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _watch_rules(self, disturbed: Callable[[], None]) -> None:
        try:
            await self._ruleset.watch(self._run, disturbed)
        except OSError as error:
            self._tell_blindness("rules", error)

    async def _watch_network(self, disturbed: Callable[[], None]) -> None:
        try:
            await NetworkChanges(self._family).watch(lambda: self._run(self._is_elsewhere), disturbed)
        except OSError as error:
            self._tell_blindness("the node's addresses", error)

    def _tell_blindness(self, what: str, error: OSError) -> None:
        text = f"The kernel does not tell of changes of {what}: they show at the next full sync only"
        log.warning(text, family=self._family, reason=str(error))

    def _look_at_addresses(self) -> frozenset[str]:
        self._addresses = self._host.addresses()
        return self._addresses

    def _moved_addresses(self) -> frozenset[str]:
        """The addresses that interfaces have, or had at :meth:`local_addresses`, and not both. Raises KernelToolError.

        Without IPv6's link-local ones: the node's end of each Pod's link has one, and no portal is one.
        """
        return frozenset(each for each in self._host.addresses() ^ self._addresses if not each.startswith("fe80:"))

    def _leased_removal(self) -> Sequence[str]:
        try:
            self.lease.take()
        except KernelToolError as error:
            return [f"nothing, because {error}"]
        return self._remove()
