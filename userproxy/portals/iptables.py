"""The ``iptables`` driver: the classic mode's rules, kept in the kernel as they should be."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from userproxy.errors import KernelToolError, ObjectError
from userproxy.model import IPFamily, LocalTraffic, PortalBinding, PortalSync, ServicePortName
from userproxy.portals.changes import (
    Change,
    Group,
    Present,
    appended_and_deleted,
    difference,
    removal,
    replacement,
)
from userproxy.portals.features import adapted, adapted_jumps
from userproxy.portals.host import HostAddress
from userproxy.portals.isolation import Groups, Refusals, Search, standing
from userproxy.portals.others import OtherProxies
from userproxy.portals.ownership import Ownership
from userproxy.portals.probe import Probe
from userproxy.portals.programs import save
from userproxy.portals.restore import RestoreWriter
from userproxy.portals.rules import CHAINS, NAT, Rule, jump_rules, portal_rules
from userproxy.portals.tables import local_ports, parse_save
from userproxy.portals.variant import Tools, Variant, detect
from userproxy.portals.writer import ConflictError, Writer, is_small

log = structlog.get_logger()

T = TypeVar("T")

Changed = Sequence[tuple[Group, Group]]
"""Rules of service ports, each before and after a change."""

_NOBODY = LocalTraffic()

MOST_UNREAD = 64
"""Edits up to which a change may be written unread: what some Services need that came or went together."""


class IptablesDriver:
    """Keeps the chains of one address family equal to the bindings of the last sync.

    `bind_address` is where the listeners of that family are bound; an unspecified one may be of either family.
    `shared` is whether a kube-proxy serves other Services here; if not, its rules are told of, and come after ours.
    Everything that blocks runs in one thread of the driver's own, in the order of the calls.
    """

    name = "iptables"

    def __init__(
        self, bind_address: str, family: IPFamily, local_traffic: LocalTraffic = _NOBODY, *, shared: bool = False
    ) -> None:
        self._bind_address = bind_address
        self._family = family
        self._local_traffic = local_traffic
        self._host = HostAddress(bind_address, family)
        self.ownership = Ownership(family)
        """Taken by a sync that finds it free, and given back by :meth:`close`."""
        self._shared = shared
        self._others = None if shared else OtherProxies(family)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="portals")
        self._tables: Tables | None = None
        self._bindings: dict[ServicePortName, PortalBinding] = {}
        self._rendered: dict[ServicePortName, tuple[Rule, ...]] = {}
        self._rendered_for: tuple[str, LocalTraffic] | None = None
        self._stands = False
        """Whether the last sync has ended well."""
        self._rule_counts: Counter[str] = Counter()
        self._refusals = Refusals()

    @property
    def rule_counts(self) -> Counter[str]:
        """How many portal rules each table has, as of the last sync; jumps do not count."""
        return self._rule_counts

    def set_local_traffic(self, local_traffic: LocalTraffic) -> None:
        """How this node's Pods are recognised from the next sync on."""
        self._local_traffic = local_traffic

    async def sync(
        self, bindings: Sequence[PortalBinding], gone: Collection[ServicePortName] = (), *, verify: bool = True
    ) -> PortalSync:
        """Makes the rules of `bindings` stand in place of those of the same names, and those that are `gone` no more.

        What is not named stays wanted. Rules are read back where they had to be written.
        It differed if it read the tables and they were not so: because something is new, or because somebody changed
        them. Bindings whose rules the tables refuse are left out, named, and tried again when they are others, or at a
        later verification.

        Without `verify` a small change is written against what the last sync left, unread: what others did to our
        chains since then stays until a sync with it, unless it is in the way.
        Raises KernelToolError where nothing can be written, another userproxy keeps the chains, or they are given up,
        also while this goes on.
        """
        local_traffic = self._local_traffic
        return await self._run(lambda: self._sync(bindings, gone, local_traffic, verify=verify))

    async def local_ports(self) -> Mapping[ServicePortName, tuple[int, ...]]:
        """The local ports that rules of an earlier process lead each service port to, that of its cluster IP first.

        Raises KernelToolError.
        """
        return await self._run(lambda: local_ports(self._opened().read().get(NAT, {})))

    async def local_addresses(self) -> frozenset[str]:
        """The addresses of the family that interfaces have now, loopback's too. Raises KernelToolError."""
        return await self._run(self._host.addresses)

    async def remove(self) -> list[str]:
        """Removes every rule and chain of ours; a sentence for each. Raises KernelToolError.

        Those of another userproxy, which are not ours, stay.
        """
        return await self._run(self._remove)

    async def close(self) -> None:
        """Ends the thread once it has finished what it does. Rules stay as they are."""
        await asyncio.to_thread(self._executor.shutdown)
        self.ownership.release()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _opened(self) -> "Tables":
        if self._tables is None:
            tools = detect(self._family)
            log.info("Found iptables", family=self._family, variant=tools.variant, because=tools.reason)
            self._tables = Tables(tools, shared=self._shared, check=self.ownership.check)
        return self._tables

    def _sync(
        self,
        bindings: Sequence[PortalBinding],
        gone: Collection[ServicePortName],
        local_traffic: LocalTraffic,
        *,
        verify: bool,
    ) -> PortalSync:
        self.ownership.check()
        # Where the last sync went wrong, or some rules were refused, what stands is not what was rendered.
        follows, self._stands = self._stands and not self._refusals.reasons, False
        before = {name: self._rendered.get(name, ()) for name in (*gone, *(each.name for each in bindings))}
        for name in gone:
            self._bindings.pop(name, None)
            self._replace(name, None)
        for binding in bindings:
            self._bindings[binding.name] = binding
        self.ownership.take()
        # A node that is not in a cluster of this family has nothing to serve, and may have no address.
        host_ip = self._host.lookup() if self._bindings else ""
        everything = self._rendered_for != (host_ip, local_traffic)
        self._rendered_for = host_ip, local_traffic
        for binding in self._bindings.values() if everything else bindings:
            self._replace(binding.name, self._rules(binding, host_ip, local_traffic))
        changed = [(old, self._rendered.get(name, ())) for name, old in before.items()]
        differed = self._converge(self._rendered, changed if follows and not everything else None, verify=verify)
        self._stands = True
        if self._others is not None:
            self._others.look(again=verify)
        return PortalSync(differed, self._refusals.reasons)

    def _replace(self, name: ServicePortName, rules: tuple[Rule, ...] | None) -> None:
        for rule in self._rendered.pop(name, ()):
            self._rule_counts[rule.table] -= 1
        if rules is not None:
            self._rendered[name] = rules
            self._rule_counts.update(rule.table for rule in rules)

    def _rules(self, binding: PortalBinding, host_ip: str, local_traffic: LocalTraffic) -> tuple[Rule, ...]:
        """The rules of `binding`, none where its name cannot stand in one."""
        try:
            return portal_rules(binding, self._bind_address, host_ip, local_traffic)
        except ObjectError as error:
            self._refusals.refuse(binding.name, (), str(error))
            return ()

    def _converge(self, groups: Groups, changed: Changed | None, *, verify: bool) -> bool:
        """Writes all of `groups` that the tables take. What is `changed` is all that does not stand, if it is known."""
        tables = self._opened()
        if verify and tables.probe.due:
            tables.probe.look()
        admitted = self._refusals.admitted(groups, verify=verify)
        try:
            differed = tables.converge(admitted.values(), None if self._refusals.reasons else changed, verify=verify)
        except ConflictError as error:
            log.info("iptables refuses rules: looking for those to leave out", reason=str(error))
            admitted, differed = self._isolate(tables, admitted, error), True
        self._refusals.accepted(admitted)
        return differed

    def _isolate(self, tables: "Tables", groups: Groups, error: ConflictError) -> Groups:
        """Writes those of `groups` that are not refused, and returns them."""
        if tables.probe.look():
            try:
                tables.converge(groups.values(), verify=True)
            except ConflictError as again:
                error = again
            else:
                return groups
        search = Search(tables.write, self._refusals.refuse, time.monotonic)
        accepted = search.run(groups, standing(tables.read(), groups))
        if not any(accepted.values()):
            raise error
        tables.converge(accepted.values(), verify=True)
        return accepted

    def _remove(self) -> list[str]:
        try:
            self.ownership.take()
        except KernelToolError as error:
            return [f"nothing, because {error}"]
        return self._opened().remove()


class Tables:
    """The tables of one variant: read, changed, and read back. `check` raises KernelToolError if it may not write."""

    def __init__(self, tools: Tools, *, shared: bool = False, check: Callable[[], None] = lambda: None) -> None:
        self._tools = tools
        self._shared = shared
        self._check = check
        self._bulk = RestoreWriter(tools)
        self.probe = Probe(self._bulk, tools.label)
        self._small = _SmallChanges(tools)
        self._standing: Present | None = None

    def read(self) -> Present:
        present = {}
        for table in CHAINS:
            present.update(parse_save(save(self._tools.save, table)))
        return present

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

        Without `verify` the tables are taken for what they were when this last ended, where that is enough.
        """
        groups = self._adapted(groups)
        standing, self._standing = self._standing, None
        if not verify and standing is not None:
            if changed is None:
                change = self._difference(standing, groups)
            else:
                olds, news = zip(*changed, strict=True) if changed else ((), ())
                change = replacement(zip(self._adapted(olds), self._adapted(news), strict=True))
            self._standing = self._converged(standing, change)
        if self._standing is not None:
            return False
        self._standing, differed = self._read_back(groups)
        self._small.load()
        return differed

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
        return after if self._write(change, tries_left=1) else None

    def _read_back(self, groups: Collection[Group]) -> tuple[Present, bool]:
        """What stands in the end, and whether anything had to be written for that."""
        for tries_left in (1, 0):
            present = self.read()
            change = self._difference(present, groups)
            if not change:
                return present, not tries_left
            self._write(change, tries_left)
        present = self.read()
        if change := self._difference(present, groups):
            block = change[0]
            where = f"table {block.table} of {self._tools.label}"
            raise KernelToolError(f"{where} is not as it was written twice: another program changes our chains")
        return present, True

    def remove(self) -> list[str]:
        """Takes our rules and chains away; one conflict is forgiven."""
        self._standing = None
        sentences: list[str] = []
        for tries_left in (1, 0):
            found = removal(self.read(), self._tools.label)
            if not found.change:
                break
            sentences = list(found.sentences)
            self._write(found.change, tries_left)
        return sentences

    def _write(self, change: Change, tries_left: int) -> bool:
        """Whether `change` was written; it was not where it met another program's and may be tried again."""
        self._check()
        writer = self._small.writer_for(change) or self._bulk
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
            from userproxy.portals.libiptc import LibiptcWriter
        except Exception as error:  # noqa: BLE001 - python-iptables raises bare Exceptions where libraries are missing
            log.warning("python-iptables cannot be loaded: iptables-restore writes every change", err=str(error))
            self._usable = False
            return None
        return LibiptcWriter()
