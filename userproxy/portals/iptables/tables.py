"""The tables of one variant of iptables: read, changed, and read back."""

from collections.abc import Callable, Collection, Sequence

import structlog

from userproxy.errors import KernelToolError
from userproxy.model import Differences, IPFamily
from userproxy.portals.interface import Cleaned
from userproxy.portals.iptables.chains import CHAINS, jump_rules
from userproxy.portals.iptables.changes import (
    Change,
    Group,
    Present,
    appended_and_deleted,
    difference,
    differences,
    removal,
    replacement,
)
from userproxy.portals.iptables.changes import changed as tables_after
from userproxy.portals.iptables.features import Probe, adapted, adapted_jumps
from userproxy.portals.iptables.isolation import Groups
from userproxy.portals.iptables.parser import parse_save
from userproxy.portals.iptables.sentinel import UNWATCHED, Sentinel
from userproxy.portals.iptables.variant import Tools, Variant, installed, legacy_tables
from userproxy.portals.iptables.writers.handles import HandleWriter
from userproxy.portals.iptables.writers.restore import ConflictError, RestoreWriter, Writer, is_small
from userproxy.portals.netlink.chains import chain_names
from userproxy.portals.nftables.kernel import following
from userproxy.portals.programs import kernel_lacks_it, save

log = structlog.get_logger()

Changed = Sequence[tuple[Group, Group]]
"""Rules of service ports, each before and after a change."""

MOST_UNREAD = 64
"""Edits up to which a change may be written unread: what some Services need that came or went together."""


class Tables:
    """The tables of one variant: read, changed, and read back. `check` raises KernelToolError if it may not write.

    `sentinel` is told what is read and written, so that it can tell what others do.
    """

    def __init__(
        self,
        tools: Tools,
        sentinel: Sentinel = UNWATCHED,
        *,
        shared: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._tools = tools
        self._sentinel = sentinel
        self._shared = shared
        self._check = check
        self._bulk = RestoreWriter(tools)
        self.probe = Probe(self._bulk, tools.label)
        self._small = _SmallChanges(tools)
        self._by_handles = HandleWriter(tools.family, self._bulk) if tools.variant is Variant.NFT else None
        self._standing: Present | None = None
        self._read: tuple[int, Present] | None = None
        """What was read last, and the generation of nf_tables since when it was so."""

    @property
    def variant(self) -> Variant:
        """Where the kernel keeps these tables."""
        return self._tools.variant

    def read(self) -> Present:
        """What stands, by a program for each table, unless the kernel says that all is as it was when last read."""
        generation = self._generation()
        if generation is not None and self._read is not None and self._read[0] == generation:
            return self._read[1]
        present = {}
        for table in CHAINS:
            present.update(parse_save(save(self._tools.save, table)))
        self._read = None if generation is None else (generation, present)
        return present

    def _generation(self) -> int | None:
        """That of nf_tables; None for legacy tables, or where the kernel does not tell."""
        if self._by_handles is None:
            return None
        generation: int | None = self._sentinel.mark(thorough=False)
        return generation

    def differences(self, groups: Collection[Group]) -> Differences:
        """The rules that are missing, and those that stand in our chains and are not of `groups`."""
        jumps = adapted_jumps(jump_rules(), self.probe.missing)
        return differences(self.read(), self._adapted(groups), jumps=jumps, shared=self._shared)

    def write(self, groups: Groups) -> None:
        """Makes the rules those of `groups`, by iptables-restore. Raises ConflictError where they are refused.

        The tables are read unless the last write of this kind told what they are.
        """
        present, self._standing = self._standing or self.read(), None
        change = self._difference(present, self._adapted(groups.values()))
        if change:
            self._check()
            self._bulk.apply(change)
        self._standing = appended_and_deleted(present, change)

    def converge(self, groups: Collection[Group], changed: Changed | None = None, *, verify: bool) -> bool:
        """Writes what differs until nothing does. One conflict with another program is forgiven.

        `changed` are the groups that are others than when this last ended, each after what it was, if that is known.

        True if the tables were read, and differed.

        Without `verify` the tables are taken for what they were when this last ended, where that is enough. So they are
        with it, where the kernel says that nobody has changed anything since.
        """
        groups = self._adapted(groups)
        standing, self._standing = self._standing, None
        if standing is not None and (not verify or self._is_untouched()):
            if changed is None:
                change = self._difference(standing, groups)
            else:
                before, after = zip(*changed, strict=True) if changed else ((), ())
                change = replacement(zip(self._adapted(before), self._adapted(after), strict=True))
            self._standing = self._converged(standing, change)
        if self._standing is not None:
            return False
        self._standing, differed = self._read_back(groups)
        self._small.load()
        return differed

    def _is_untouched(self) -> bool:
        if self._by_handles is None:
            return False
        mark = self._sentinel.mark(thorough=True)
        if not self._by_handles.is_current(mark):
            return False
        self._sentinel.verified(mark)
        return True

    def _adapted(self, groups: Collection[Group]) -> Collection[Group]:
        """The rules that this kernel takes."""
        missing = self.probe.missing
        return [adapted(group, missing) for group in groups] if missing else groups

    def _difference(self, present: Present, groups: Collection[Group]) -> Change:
        jumps = adapted_jumps(jump_rules(), self.probe.missing)
        return difference(present, groups, jumps=jumps, shared=self._shared)

    def _converged(self, standing: Present, change: Change) -> Present | None:
        """What stands after a small `change` to `standing`; None if it is not small, or is refused."""
        if not change:
            return standing
        after = appended_and_deleted(standing, change)
        if after is None or sum(len(block.edits) for block in change) > MOST_UNREAD:
            return None
        mark = self._sentinel.mark(thorough=False)
        planned = self._by_handles.planned(standing, change) if self._by_handles is not None else None
        if not self._write(planned or change, tries_left=1, writer=None if planned is None else self._by_handles):
            return None
        self._sentinel.wrote(mark, planned or change)
        return after

    def _read_back(self, groups: Collection[Group]) -> tuple[Present, bool]:
        """What stands in the end, and whether anything had to be written for that."""
        for tries_left in (1, 0):
            present, change = self._look(groups)
            if not change:
                return present, not tries_left
            before = self._generation()
            if self._write(change, tries_left) and (after := self._proven(before, present, change)) is not None:
                return after, True
        present, change = self._look(groups)
        if change:
            block = change[0]
            where = f"table {block.table} of {self._tools.label}"
            raise KernelToolError(f"{where} is not as it was written twice: another program changes our chains")
        return present, True

    def _proven(self, before: int | None, present: Present, change: Change) -> Present | None:
        """What stands after `change`, written upon `before`, if the kernel shows that nobody else wrote meanwhile.

        A commit is taken as a whole or refused, so it need not be read at once: to print and to list thousands of rules
        is a third of a start. The next verification does.
        """
        if before is None or self._read is None or self._read[0] != before:
            return None
        after, generation = tables_after(present, change), self._generation()
        if after is None or generation != following(before, len(change)):
            return None
        self._sentinel.verified(generation)
        return after

    def _look(self, groups: Collection[Group]) -> tuple[Present, Change]:
        """What stands, and how it differs from `groups`."""
        mark = self._sentinel.mark(thorough=True)
        present = self.read()
        change = self._difference(present, groups)
        if not change:
            self._sentinel.verified(mark)
            if self._by_handles is not None:
                self._by_handles.learn(present, mark)
        return present, change

    def remove(self) -> list[str]:
        """Takes our rules and chains away; one conflict is forgiven.

        A sentence for each of them, also of those that went before the conflict.
        """
        self._standing = self._read = None  # whether tables can be read is to be known before anything goes
        sentences: dict[str, None] = {}
        for tries_left in (1, 0):
            found = removal(self.read(), self._tools.label)
            if not found.change:
                break
            sentences.update(dict.fromkeys(found.sentences))
            self._write(found.change, tries_left)
        return list(sentences)

    def _write(self, change: Change, tries_left: int, writer: Writer | None = None) -> bool:
        """Whether `change` was written; it was not where it met another program's and may be tried again."""
        self._check()
        writer = writer or self._small.writer_for(change) or self._bulk
        edits = sum(len(block.edits) for block in change)
        log.debug("Changing iptables rules", v=4, edits=edits, writer=type(writer).__name__)
        try:
            writer.apply(change)
        except ConflictError as error:
            if not tries_left:
                raise
            log.info("iptables rules changed while they were written; reading them again", err=str(error))
            return False
        return True


def clean_up(family: IPFamily, kept: Variant | None = None) -> Cleaned:
    """Remove our rules and chains of one family from both variants, or from all but the one that is `kept`. Blocking.

    A variant that is not installed, or that the kernel lacks, is told of and passed over, in IPv6 in silence; it is a
    failure only if rules of ours are there.
    """
    try:
        found = installed(family)
    except KernelToolError as error:
        return _without_programs(family, str(error))
    cleaned = Cleaned()
    for tools in found:
        if tools.variant is not kept and (tools.variant is Variant.NFT or legacy_tables(family) & CHAINS.keys()):
            cleaned += _clean(tools)
    return cleaned


def _without_programs(family: IPFamily, lacking: str) -> Cleaned:
    try:
        ours = {chain for chains in CHAINS.values() for chain in chains}
        left = sorted(ours & chain_names(family)) or sorted(legacy_tables(family) & CHAINS.keys())
    except OSError as error:
        return Cleaned(failed=(f"{lacking}; whether rules are left cannot be seen: {error.strerror or error}",))
    if left:
        return Cleaned(failed=(f"{lacking}, and what is left cannot be removed without it: {', '.join(left)}",))
    return Cleaned(absent=(lacking,) if family is IPFamily.IPV4 else ())


def _clean(tools: Tools) -> Cleaned:
    tables = Tables(tools)
    try:
        tables.read()
    except KernelToolError as error:
        text = f"{tools.label}: left as it is, because it cannot be read: {error}"
        if not kernel_lacks_it(error):
            return Cleaned(failed=(text,))
        return Cleaned() if tools.family is IPFamily.IPV6 else Cleaned(absent=(text,))
    try:
        return Cleaned(tuple(tables.remove()))
    except KernelToolError as error:
        return Cleaned(failed=(f"{tools.label}: not removed: {error}",))


class _SmallChanges:
    """Loads python-iptables where it is of use, and says once where it cannot be loaded."""

    def __init__(self, tools: Tools) -> None:
        self._usable = tools.variant is Variant.LEGACY and tools.family is IPFamily.IPV4
        self._writer: Writer | None = None

    def load(self) -> None:
        """Have the library at hand before a small change needs it: clients notice a quarter of a second of imports."""
        if self._usable and self._writer is None:
            self._writer = self._load()

    def writer_for(self, change: Change) -> Writer | None:
        if not self._usable or not is_small(change):
            return None
        self.load()
        return self._writer

    def _load(self) -> Writer | None:
        try:
            from userproxy.portals.iptables.writers.libiptc import LibiptcWriter
        except Exception as error:  # noqa: BLE001 - python-iptables raises bare Exceptions where libraries are missing
            log.warning("python-iptables cannot be loaded: iptables-restore writes every change", err=str(error))
            self._usable = False
            return None
        return LibiptcWriter()
