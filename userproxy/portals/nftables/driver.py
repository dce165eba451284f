"""The ``nftables`` driver: portals as elements of maps, in a table of our own for each address family."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

import structlog
from msgspec import Struct

from userproxy.errors import KernelToolError, ObjectError
from userproxy.model import IPFamily, LocalTraffic, PortalBinding, PortalSync, ServicePortName
from userproxy.portals.host import HostAddress
from userproxy.portals.interface import Cleaned, DriverOptions, PortalDriver, Traits
from userproxy.portals.lease import Lease
from userproxy.portals.nftables.changes import (
    Repair,
    creation,
    element_edits,
    repair,
    rewriting,
    transaction,
)
from userproxy.portals.nftables.elements import claims, local_ports
from userproxy.portals.nftables.host import clean_up, remove_ours, unusable
from userproxy.portals.nftables.kernel import Kernel, OvertakenError, Present, following
from userproxy.portals.nftables.layout import TABLE_NAMES, Chain, Layout, layout, translating_maps
from userproxy.portals.nftables.ledger import Edits, Ledger
from userproxy.portals.nftables.messages import Message
from userproxy.portals.nftables.notices import Notices

log = structlog.get_logger()

T = TypeVar("T")

_MOST_TRIES: Final = 4
_NOTHING_NEEDED: Final = Repair()


class _Standing(Struct):
    """What the kernel's table was when a sync last ended, or when it was last known to be so."""

    layout: Layout
    generation: int


class NftablesDriver(PortalDriver):
    """Keeps the table of one address family equal to the bindings of the last sync.

    Everything that blocks runs in one thread of the driver's own, in the order of the calls.
    """

    name = "nftables"
    traits = Traits(translates=True)
    lease: Lease

    def __init__(self, options: DriverOptions) -> None:
        self._bind_address = options.bind_address
        self._family = options.family
        self._local_traffic = LocalTraffic()
        self._host = HostAddress(options.bind_address, options.family)
        self._kernel = Kernel(options.family)
        self.lease = Lease(options.family)
        """Taken by a sync that finds it free, and given back by :meth:`close`."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="portals")
        self._ledger = Ledger()
        self._standing: _Standing | None = None
        self._notices: Notices | None = None
        self._listed_as: dict[Chain, tuple[bytes, ...]] = {}
        self._host_ip = ""
        self._restricted: dict[ServicePortName, PortalBinding] = {}
        """Those with source ranges."""
        self._refused: dict[ServicePortName, str] = {}

    @staticmethod
    def unusable(family: IPFamily) -> str | None:
        """Why there can be no table here: a capability, or modules of the kernel are missing."""
        return unusable(family)

    @staticmethod
    def clean_up(family: IPFamily) -> Cleaned:
        """Remove our table, if there is one; a kernel without nftables has none."""
        return clean_up(family)

    @property
    def rule_counts(self) -> Mapping[str, int]:
        """How many elements the table has, as of the last sync."""
        return {TABLE_NAMES[self._family]: len(self._ledger)} if self._standing is not None else {}

    def set_local_traffic(self, local_traffic: LocalTraffic) -> None:
        """How this node's Pods are recognised from the next sync on."""
        self._local_traffic = local_traffic

    async def sync(
        self, bindings: Sequence[PortalBinding], gone: Collection[ServicePortName] = (), *, verify: bool = True
    ) -> PortalSync:
        """Makes the elements of `bindings` stand in place of those of the same names, and those `gone` no more.

        What is not named stays wanted. All of it is one transaction: it happens, or nothing does. The table is read at
        first, and when others may have changed it: with `verify` that is looked for, without it is found out where it
        is in the way.
        Raises KernelToolError where nothing can be written, another userproxy keeps the portals, or they are given up.
        """
        local_traffic = self._local_traffic
        return await self._run(lambda: self._sync(bindings, gone, local_traffic, verify=verify))

    async def watch(self, disturbed: Callable[[], None]) -> None:
        """Call `disturbed` when others have changed our table, until cancelled."""
        notices = await self._run(self._listen)
        while True:
            await notices.wait()
            if await self._run(self._is_disturbed):
                disturbed()

    async def local_ports(self) -> Mapping[ServicePortName, tuple[int, ...]]:
        """The local ports that elements of an earlier process lead each service port to, its cluster IP's first.

        Raises KernelToolError.
        """
        return await self._run(self._local_ports)

    async def local_addresses(self) -> frozenset[str]:
        """The addresses of the family that interfaces have now, loopback's too. Raises KernelToolError."""
        return await self._run(self._host.addresses)

    async def remove(self) -> list[str]:
        """Removes our table, a sentence for it. Raises KernelToolError. That of another userproxy stays."""
        return await self._run(self._remove)

    async def close(self) -> None:
        """Ends the thread once it has finished what it does. The table stays as it is."""
        await asyncio.to_thread(self._executor.shutdown)
        if self._notices is not None:
            self._notices.close()
        self.lease.release()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _sync(
        self,
        bindings: Sequence[PortalBinding],
        gone: Collection[ServicePortName],
        local_traffic: LocalTraffic,
        *,
        verify: bool,
    ) -> PortalSync:
        self.lease.check()
        for name in gone:
            self._take_out(name)
        for binding in bindings:
            self._take_out(binding.name)
            self._put(binding)
        self.lease.take()
        # A node that is not in a cluster of this family has nothing to serve, and may have no address.
        self._found_at(self._host.lookup() if self._ledger else "")
        wanted = layout(self._family, self._bind_address, self._host_ip, local_traffic)
        return PortalSync(self._converge(wanted, verify=verify), dict(self._refused))

    def _take_out(self, name: ServicePortName) -> None:
        self._ledger.put(name, {})
        self._restricted.pop(name, None)
        self._refused.pop(name, None)

    def _put(self, binding: PortalBinding) -> None:
        """Have the elements of `binding`, none where its name cannot stand in one."""
        if binding.source_ranges:
            self._restricted[binding.name] = binding
        try:
            self._ledger.put(binding.name, claims(binding, self._family, self._host_ip))
        except ObjectError as error:
            self._refused[binding.name] = str(error)

    def _found_at(self, host_ip: str) -> None:
        """Listeners are reached at this address, which counts where source ranges have it among them."""
        if host_ip != self._host_ip:
            self._host_ip = host_ip
            for binding in list(self._restricted.values()):
                self._put(binding)

    def _converge(self, wanted: Layout, *, verify: bool) -> bool:
        """True if the table was read, and differed."""
        self._listen()
        edits = self._ledger.take_edits()
        standing, self._standing = self._standing, None
        if standing is not None and (not verify or self._is_untouched(standing)):
            self._standing = self._changed(standing, wanted, edits)
        return self._standing is None and self._read_and_repaired(wanted)

    def _listen(self) -> Notices:
        if self._notices is None:
            self._notices = Notices(self._family)
        return self._notices

    def _is_disturbed(self) -> bool:
        return self._standing is not None and not self._is_untouched(self._standing)

    def _is_untouched(self, standing: _Standing) -> bool:
        """Whether our table is still what we left, and if so, since when that is known."""
        generation = self._kernel.generation()
        if generation != standing.generation and self._listen().touched(standing.generation, generation):
            return False
        standing.generation = generation
        return True

    def _changed(self, standing: _Standing, wanted: Layout, edits: Edits) -> _Standing | None:
        """What stands after a change to `standing`; None if the table is another one by now."""
        needed = _NOTHING_NEEDED if standing.layout == wanted else rewriting(standing.layout, wanted)
        if not needed and not edits:
            return standing
        try:
            return self._written(wanted, needed, edits, standing.generation)
        except OvertakenError as error:
            log.debug("The table of nftables is not as we left it", v=2, reason=str(error))
            return None

    def _read_and_repaired(self, wanted: Layout) -> bool:
        """Whether anything had to be written so that the table is as wanted."""
        for tries_left in reversed(range(_MOST_TRIES)):
            try:
                present = self._kernel.read()
                needed, edits = self._difference(present, wanted)
                if not needed and not edits:
                    self._standing = _Standing(wanted, present.generation)
                    return False
                self._standing = self._written(wanted, needed, edits, present.generation)
            except OvertakenError:
                if not tries_left:
                    raise
            else:
                return True
        raise AssertionError("the last try returns or raises")

    def _difference(self, present: Present, wanted: Layout) -> tuple[Repair, Edits]:
        if not present.exists:
            return creation(wanted), Edits(added=tuple(self._ledger))
        needed = repair(wanted, present.sets, present.chains, present.rules, self._listed_as)
        if needed.anew:
            return needed, Edits(added=tuple(self._ledger))
        there = {each.name: self._kernel.elements(each.name) for each in wanted.sets if each.name in present.sets}
        return needed, element_edits(self._ledger, there)

    def _written(self, wanted: Layout, needed: Repair, edits: Edits, generation: int) -> _Standing:
        """What stands after a change to the table as it was in `generation`. Raises OvertakenError if it is another."""
        self.lease.check()
        steps = transaction(wanted, needed, edits)
        log.debug("Changing nftables", v=4, deleted=len(edits.deleted), added=len(edits.added), steps=len(steps))
        standing = _Standing(wanted, self._committed(steps, generation))
        if needed:
            self._note_listing(standing)
        return standing

    def _committed(self, steps: Sequence[Message], generation: int) -> int:
        """The generation that these steps made. What others do elsewhere meanwhile is no obstacle."""
        standing = generation
        for _ in range(_MOST_TRIES):
            with suppress(OvertakenError):
                self._kernel.commit(steps, standing)
                return following(standing)
            now = self._kernel.generation()
            if self._listen().touched(standing, now):
                break
            standing = now
        raise OvertakenError("others change the table of nftables while it is written")

    def _note_listing(self, standing: _Standing) -> None:
        """Keep how this kernel lists our rules, so that they are known again."""
        present = self._kernel.read()
        if self._is_untouched(standing) and present.generation <= standing.generation:
            self._listed_as = {each: tuple(present.rules.get(each.name, ())) for each in standing.layout.chains}

    def _local_ports(self) -> Mapping[ServicePortName, tuple[int, ...]]:
        self._kernel.generation()  # says why, where there can be no table
        return local_ports(
            (name, *parts) for name in translating_maps() for parts in self._kernel.parts_of_elements(name)
        )

    def _remove(self) -> list[str]:
        try:
            self.lease.take()
        except KernelToolError as error:
            return [f"nothing, because {error}"]
        self._standing = None
        return remove_ours(self._family)
