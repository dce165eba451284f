"""The ``nftables`` driver: portals as elements of maps, in a table of our own for each address family."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import structlog
from msgspec import Struct

from userproxy.addresses import SOCKET_FAMILIES
from userproxy.errors import KernelToolError, ObjectError
from userproxy.model import Differences, IPFamily, LocalTraffic, PortalBinding, PortalSync, ServicePortName
from userproxy.pace import ThreadPace
from userproxy.portals.interface import Cleaned, DriverOptions
from userproxy.portals.netlink.ruleset import Ruleset
from userproxy.portals.nftables.changes import Repair, creation, element_edits, repair, rewriting, transaction
from userproxy.portals.nftables.elements import Element, claims, element_text, local_ports
from userproxy.portals.nftables.host import clean_up, remove_ours, unusable
from userproxy.portals.nftables.kernel import Kernel, OvertakenError, Present, following
from userproxy.portals.nftables.layout import TABLE, TABLE_NAMES, Chain, Layout, layout, translating_maps
from userproxy.portals.nftables.ledger import Edits, Ledger
from userproxy.portals.nftables.messages import element_parts
from userproxy.portals.translating import TranslatingDriver

log = structlog.get_logger()

_MOST_TRIES: Final = 4
_NOTHING_NEEDED: Final = Repair()


class _Standing(Struct, frozen=True):
    """What the kernel's table was when a sync last ended.

    `generation` is that of nftables' rules then; None where others wrote while we did.
    """

    layout: Layout
    generation: int | None


class NftablesDriver(TranslatingDriver):
    """Keeps the table of one address family equal to the bindings of the last sync.

    A sync is one transaction: all of it happens, or nothing does (the exception: :meth:`Kernel.commit`). The table is
    read at first, and with `verify` if others have changed rules of nftables since; else a change is written against
    what the last sync left, unless what others did is in its way.
    """

    name = "nftables"

    def __init__(self, options: DriverOptions) -> None:
        number = SOCKET_FAMILIES[options.family]
        super().__init__(options, Ruleset(lambda touched: (touched.family, touched.table) == (number, TABLE)))
        self._kernel = Kernel(options.family)
        self._ledger = Ledger()
        self._standing: _Standing | None = None
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
    def clean_up(family: IPFamily, *, sparing: bool = False) -> Cleaned:  # noqa: ARG004 - a driver's signature
        """Remove our table, if there is one; a kernel without nftables has none."""
        return clean_up(family)

    @property
    def rule_counts(self) -> Mapping[str, int]:
        """How many elements the table has, as of the last sync."""
        return {TABLE_NAMES[self._family]: len(self._ledger)} if self._standing is not None else {}

    def _sync(
        self,
        bindings: Sequence[PortalBinding],
        gone: Collection[ServicePortName],
        local_traffic: LocalTraffic,
        *,
        verify: bool,
    ) -> PortalSync:
        self.lease.check()
        is_needed = self._take(bindings, gone)
        self.lease.take()
        self._guard.stand()
        # A node that is not in a cluster of this family has nothing to serve, and may have no address.
        return self._converge(self._host.lookup() if is_needed else "", local_traffic, verify=verify)

    def _is_elsewhere(self) -> bool:
        if self._standing is None:
            return True
        try:
            return bool(self._moved_addresses()) or (bool(self._host_ip) and self._host_ip != self._host.lookup())
        except KernelToolError:
            return True

    def _take(self, bindings: Sequence[PortalBinding], gone: Collection[ServicePortName]) -> bool:
        """Want these from now on, and no longer those; whether anything is wanted at all."""
        pace = ThreadPace()
        for name in gone:
            self._take_out(name)
            pace.keep()
        for binding in bindings:
            self._take_out(binding.name)
            self._put(binding)
            pace.keep()
        return bool(self._ledger)

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

    def _converge(self, host_ip: str, local_traffic: LocalTraffic, *, verify: bool) -> PortalSync:
        """Have what is wanted stand, with packets led to `host_ip`. Raises KernelToolError."""
        if host_ip != self._host_ip:
            self._host_ip = host_ip
            for binding in list(self._restricted.values()):  # their ranges may have the address among them
                self._put(binding)
        wanted = layout(self._family, self._bind_address, host_ip, local_traffic)
        edits = self._ledger.take_edits()
        standing, self._standing = self._standing, None
        if standing is not None and (not verify or self._is_untouched(standing)):
            self._standing = self._changed(standing, wanted, edits)
        differed = self._standing is None and self._read_and_repaired(wanted)
        return PortalSync(differed, dict(self._refused))

    def _is_untouched(self, standing: _Standing) -> bool:
        """Whether nobody has changed any rules of nftables since; then there is nothing to read."""
        if standing.generation is None or self._kernel.generation() != standing.generation:
            return False
        self._ruleset.verified(standing.generation)
        return True

    def _changed(self, standing: _Standing, wanted: Layout, edits: Edits) -> _Standing | None:
        """What stands after a change to `standing`; None if something is in its way.

        Others may have written elsewhere meanwhile, as container runtimes do with every Pod.
        """
        needed = _NOTHING_NEEDED if standing.layout == wanted else rewriting(standing.layout, wanted)
        if not needed and not edits:
            return standing
        for generation in dict.fromkeys((standing.generation, None)):
            try:
                return self._written(wanted, needed, edits, generation)
            except OvertakenError as error:
                log.debug("The rules of nftables are not as we left them", v=2, reason=str(error))
        return None

    def _read_and_repaired(self, wanted: Layout) -> bool:
        """Whether anything had to be written so that the table is as wanted."""
        for tries_left in reversed(range(_MOST_TRIES)):
            try:
                present = self._kernel.read()
                needed, edits = self._difference(present, wanted)
                standing = _Standing(wanted, present.generation)
                if needed or edits:
                    standing = self._written(wanted, needed, edits, present.generation)
            except OvertakenError:
                if not tries_left:
                    raise
            else:
                self._ruleset.verified(present.generation)
                self._standing = standing
                return bool(needed or edits)
        raise AssertionError("the last try returns or raises")

    def _difference(self, present: Present, wanted: Layout) -> tuple[Repair, Edits]:
        if not present.exists:
            return creation(wanted), Edits(added=tuple(self._ledger))
        needed = repair(wanted, present.sets, present.chains, present.rules, self._listed_as)
        if needed.anew:
            return needed, Edits(added=tuple(self._ledger))
        there = {each.name: self._kernel.elements(each.name) for each in wanted.sets if each.name in present.sets}
        return needed, element_edits(self._ledger, there)

    def _differences(self) -> Differences:
        wanted = layout(self._family, self._bind_address, self._host_ip, self._local_traffic)
        present = self._kernel.read()
        needed, edits = self._difference(present, wanted)
        whole = [f"table {TABLE_NAMES[self._family]}"] if needed.anew or not present.exists else []
        parts = [
            *(f"set {each.name}" for each in needed.sets),
            *(f"chain {each.name}" for each in needed.chains),
            *(f"rules of the chain {each.name}" for each in needed.rules if each not in needed.chains),
        ]
        return Differences(
            (*whole, *([] if whole else parts), *map(_text, edits.added)),
            tuple(map(_text, edits.deleted)),
        )

    def _written(self, wanted: Layout, needed: Repair, edits: Edits, generation: int | None) -> _Standing:
        """What stands after a change, which is made only if the rules are of this `generation`, unless that is None.

        Raises OvertakenError if they are not, or the change cannot be made to what there is.
        """
        self.lease.check()
        steps = transaction(wanted, needed, edits)
        log.debug("Changing nftables", v=4, deleted=len(edits.deleted), added=len(edits.added), steps=len(steps))
        before = self._kernel.generation() if generation is None else generation
        transactions = self._kernel.commit(steps, generation)
        self._ruleset.wrote(before, transactions)
        standing = _Standing(wanted, None if generation is None else following(generation, transactions))
        if needed:
            self._note_listing(standing)
        return standing

    def _note_listing(self, standing: _Standing) -> None:
        """Keep how this kernel lists our rules, so that they are known again."""
        present = self._kernel.read()
        if present.generation == standing.generation:
            self._listed_as = {each: tuple(present.rules.get(each.name, ())) for each in standing.layout.chains}

    def _local_ports(self) -> Mapping[ServicePortName, Sequence[int]]:
        self._kernel.generation()  # says why, where there can be no table
        return local_ports(
            (name, *parts) for name in translating_maps() for parts in self._kernel.parts_of_elements(name)
        )

    def _remove(self) -> Sequence[str]:
        self._standing = None
        return remove_ours(self._family)


def _text(element: Element) -> str:
    key, _, comment = element_parts(element.body, 0, len(element.body))
    return element_text(element.set, key, comment)
