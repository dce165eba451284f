"""The ``iptables`` driver: the classic mode's rules, kept in the kernel as they should be."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from userproxy.errors import KernelToolError
from userproxy.model import PortalBinding, ServicePortName
from userproxy.portals.changes import Change, Present, difference, removal
from userproxy.portals.host import HostAddress
from userproxy.portals.programs import save
from userproxy.portals.restore import RestoreWriter
from userproxy.portals.rules import CHAINS, NAT, Family, Rule, portal_rules
from userproxy.portals.tables import local_ports, parse_save
from userproxy.portals.variant import Tools, Variant, detect, installed, legacy_tables
from userproxy.portals.writer import ConflictError, Writer, is_small

log = structlog.get_logger()

T = TypeVar("T")


class IptablesDriver:
    """Keeps the five chains equal to the bindings of the last sync.

    Everything that blocks runs in one thread of the driver's own, in the order of the calls.
    """

    name = "iptables"

    def __init__(self, bind_address: str, family: Family = Family.IPV4) -> None:
        self._bind_address = bind_address
        self._family = family
        self._host = HostAddress(bind_address, family)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="portals")
        self._tables: _Tables | None = None
        self._rendered: dict[tuple[PortalBinding, str], tuple[Rule, ...]] = {}
        self._rule_counts: Counter[str] = Counter()

    @property
    def rule_counts(self) -> Counter[str]:
        """How many portal rules each table has, as of the last sync; jumps do not count."""
        return self._rule_counts

    async def sync(self, bindings: Sequence[PortalBinding]) -> None:
        """Makes the rules those of `bindings`, and reads them back where it had to write.

        Raises KernelToolError, and ObjectError where a name cannot stand in a rule.
        """
        wanted = tuple(bindings)
        await self._run(lambda: self._sync(wanted))

    async def local_ports(self) -> dict[ServicePortName, int]:
        """The local ports that rules of an earlier process lead to. Raises KernelToolError."""
        return await self._run(lambda: local_ports(self._opened().read().get(NAT, {})))

    async def remove(self) -> list[str]:
        """Removes every rule and chain of ours; a sentence for each. Raises KernelToolError."""
        return await self._run(lambda: self._opened().remove())

    async def close(self) -> None:
        """Ends the thread once it has finished what it does. Rules stay as they are."""
        await asyncio.to_thread(self._executor.shutdown)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _opened(self) -> "_Tables":
        if self._tables is None:
            tools = detect(self._family)
            log.info("Found iptables", variant=tools.variant, because=tools.reason)
            self._tables = _Tables(tools)
        return self._tables

    def _sync(self, bindings: tuple[PortalBinding, ...]) -> None:
        host_ip = self._host.lookup()
        rendered = {}
        for binding in bindings:
            key = (binding, host_ip)
            rendered[key] = self._rendered.get(key) or portal_rules(binding, self._bind_address, host_ip)
        self._rendered = rendered
        self._opened().converge(tuple(rendered.values()))
        self._rule_counts = Counter(rule.table for rules in rendered.values() for rule in rules)


class _Tables:
    """The tables of one variant: read, changed, and read back."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._bulk = RestoreWriter(tools)
        self._small = _SmallChanges(tools)

    def read(self) -> Present:
        present = {}
        for table in CHAINS:
            present.update(parse_save(save(self._tools.save, table)))
        return present

    def converge(self, groups: Sequence[Sequence[Rule]]) -> None:
        """Writes what differs until nothing does. One conflict with another program is forgiven."""
        for tries_left in (1, 0):
            change = difference(self.read(), groups)
            if not change:
                return
            self._write(change, tries_left)
        if change := difference(self.read(), groups):
            block = change[0]
            where = f"table {block.table} of {self._tools.label}"
            raise KernelToolError(f"{where} is not as it was written twice: another program changes our chains")

    def remove(self) -> list[str]:
        """Takes our rules and chains away; one conflict is forgiven."""
        sentences: list[str] = []
        for tries_left in (1, 0):
            found = removal(self.read(), self._tools.label)
            if not found.change:
                break
            sentences = list(found.sentences)
            self._write(found.change, tries_left)
        return sentences

    def _write(self, change: Change, tries_left: int) -> None:
        writer = self._small.writer_for(change) or self._bulk
        edits = sum(len(block.edits) for block in change)
        log.debug("Changing iptables rules", v=4, edits=edits, writer=type(writer).__name__)
        try:
            writer.apply(change)
        except ConflictError as error:
            if not tries_left:
                raise
            log.info("iptables rules changed while they were written; reading them again", err=str(error))


class _SmallChanges:
    """Loads python-iptables at the first change that it would write, and says once where it cannot."""

    def __init__(self, tools: Tools) -> None:
        self._usable = tools.variant is Variant.LEGACY and tools.family is Family.IPV4
        self._writer: Writer | None = None

    def writer_for(self, change: Change) -> Writer | None:
        if not self._usable or not is_small(change):
            return None
        if self._writer is None:
            self._writer = self._load()
        return self._writer

    def _load(self) -> Writer | None:
        try:
            from userproxy.portals.libiptc import LibiptcWriter
        except Exception as error:  # noqa: BLE001 - python-iptables raises bare Exceptions where libraries are missing
            log.warning("python-iptables cannot be loaded: iptables-restore writes every change", err=str(error))
            self._usable = False
            return None
        return LibiptcWriter()


def cleanup_all(family: Family = Family.IPV4) -> list[str]:
    """Removes our rules and chains from both variants; a sentence for each thing removed or left.

    Blocking. A variant that cannot be read, because the kernel lacks it, is told of and passed over.
    Raises KernelToolError where iptables is not installed, no variant can be read or a removal is refused.
    """
    sentences: list[str] = []
    unreadable: list[KernelToolError] = []
    found = installed(family)
    for tools in found:
        if tools.variant is Variant.LEGACY and not legacy_tables(family) & CHAINS.keys():
            continue
        tables = _Tables(tools)
        try:
            tables.read()
        except KernelToolError as error:
            unreadable.append(error)
            sentences.append(f"{tools.label}: left as it is, because it cannot be read: {error}")
        else:
            sentences += tables.remove()
    if len(unreadable) == len(found):
        raise unreadable[0]
    return sentences
