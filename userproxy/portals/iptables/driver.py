"""The ``iptables`` driver: the classic mode's rules, kept in the kernel as they should be."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
from msgspec import Struct

from userproxy.errors import KernelToolError, ObjectError
from userproxy.model import Differences, IPFamily, LocalTraffic, PortalBinding, PortalSync, ServicePortName
from userproxy.portals.host import may_write_rules
from userproxy.portals.interface import Cleaned, DriverOptions
from userproxy.portals.iptables.canary import Canary
from userproxy.portals.iptables.chains import NAT, Rule
from userproxy.portals.iptables.isolation import Groups, Refusals, Search, standing
from userproxy.portals.iptables.other_proxies import OtherProxies
from userproxy.portals.iptables.parser import local_ports
from userproxy.portals.iptables.redirection import Redirection
from userproxy.portals.iptables.rules import portal_rules
from userproxy.portals.iptables.sentinel import NftSentinel, make_ruleset, make_sentinel
from userproxy.portals.iptables.tables import Changed, Tables, clean_up
from userproxy.portals.iptables.usable import refusal
from userproxy.portals.iptables.variant import detect
from userproxy.portals.iptables.writers.restore import ConflictError
from userproxy.portals.translating import TranslatingDriver

log = structlog.get_logger()


class _Node(Struct, frozen=True):
    """What all rules depend on: the node's address, whether REDIRECT works for all its links, and its Pods."""

    host_ip: str
    redirects: bool
    local_traffic: LocalTraffic


class IptablesDriver(TranslatingDriver):
    """Keeps the chains of one address family equal to the bindings of the last sync.

    Rules of a kube-proxy are told of, and come after ours, unless it is to serve other Services here (`shared`).
    """

    name = "iptables"

    def __init__(self, options: DriverOptions) -> None:
        super().__init__(options, make_ruleset(options.family))
        self._redirection = Redirection()
        self._shared = options.shared
        self._others = None if options.shared else OtherProxies(options.family)
        self._tables: Tables | None = None
        self._sentinel: NftSentinel | Canary | None = None
        """Told what is read and written; None until it is known which variant that is."""
        self._known = asyncio.Event()
        """Set once there is something to watch: the first sync has ended, and it is known which variant it wrote."""
        self._bindings: dict[ServicePortName, PortalBinding] = {}
        self._rendered: dict[ServicePortName, tuple[Rule, ...]] = {}
        self._rendered_for: _Node | None = None
        self._stands = False
        """Whether the last sync has ended well."""
        self._rule_counts: Counter[str] = Counter()
        self._refusals = Refusals()

    @staticmethod
    def unusable(family: IPFamily) -> str | None:
        """Why rules cannot be written here: a capability, the programs or parts of the kernel are missing."""
        if not may_write_rules():
            return (
                f"writing rules takes the capability CAP_NET_ADMIN, which this process, of user {os.geteuid()}, does"
                " not have (a container has added capabilities as user 0 only)"
            )
        return refusal(family)

    @staticmethod
    def clean_up(family: IPFamily, *, sparing: bool = False) -> Cleaned:  # noqa: ARG004 - a driver's signature
        """Remove our rules and chains of both variants."""
        return clean_up(family)

    def clean_up_elsewhere(self) -> Cleaned:
        """Remove our rules and chains of the variant that this node does not use now."""
        return clean_up(self._family, kept=self._tables.variant) if self._tables is not None else Cleaned()

    @property
    def rule_counts(self) -> Counter[str]:
        """How many portal rules each table has, as of the last sync; jumps do not count."""
        return self._rule_counts

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
        try:
            return await super().sync(bindings, gone, verify=verify)
        finally:
            if self._sentinel is not None:
                self._known.set()

    async def watch(self, disturbed: Callable[[], None]) -> None:
        """Calls `disturbed` when others have changed what concerns our rules, or the node's addresses are others.

        The kernel tells of changes of nf_tables and of the network; legacy tables are looked at once a second.
        """
        async with asyncio.TaskGroup() as group:
            rules = group.create_task(self._watch_rules(disturbed), name=f"watch nf_tables {self._family}")
            await self._known.wait()
            group.create_task(self._watch_network(disturbed), name=f"watch network {self._family}")
            if isinstance(self._sentinel, Canary):
                rules.cancel()
                await self._sentinel.watch(self._run, disturbed)

    def _differences(self) -> Differences:
        return self._opened().differences(self._rendered.values())

    def _local_ports(self) -> Mapping[ServicePortName, tuple[int, ...]]:
        return local_ports(self._opened().read().get(NAT, {}))

    def _is_elsewhere(self) -> bool:
        """Whether the node's addresses or links are others than when rules were last written, or could not be."""
        if not self._stands:
            return True
        try:
            node = self._look_at_node(self._local_traffic, links=True)
            moved = self._moved_addresses()
        except KernelToolError as error:
            log.debug("Addresses of the node cannot be read", v=2, family=self._family, reason=str(error))
            return True
        if moved or node != self._rendered_for:
            log.debug("The node's network changed", v=2, family=self._family, moved=sorted(moved), node=str(node))
            return True
        return False

    def _look_at_node(self, local_traffic: LocalTraffic, *, links: bool) -> _Node:
        """What rules depend on; without `links` they count as they were when they were looked at last."""
        if not self._bindings:  # a node that is not in a cluster of this family may have no address
            return _Node("", self._redirection.works, local_traffic)
        if links:
            self._redirection.look(self._host.links_without_address(), self._family)
        return _Node(self._host.lookup(), self._redirection.works, local_traffic)

    def _opened(self) -> Tables:
        if self._tables is None:
            tools = detect(self._family)
            log.info("Found iptables", family=self._family, variant=tools.variant, because=tools.reason)
            self._sentinel = make_sentinel(self._family, tools.variant, self._ruleset)
            self._tables = Tables(tools, self._sentinel, shared=self._shared, check=self.lease.check)
        return self._tables

    def _sync(
        self,
        bindings: Sequence[PortalBinding],
        gone: Collection[ServicePortName],
        local_traffic: LocalTraffic,
        *,
        verify: bool,
    ) -> PortalSync:
        self.lease.check()
        # Where the last sync went wrong, or some rules were refused, what stands is not what was rendered.
        follows, self._stands = self._stands and not self._refusals.reasons, False
        before = {name: self._rendered.get(name, ()) for name in (*gone, *(each.name for each in bindings))}
        for name in gone:
            self._bindings.pop(name, None)
            self._replace(name, None)
        for binding in bindings:
            self._bindings[binding.name] = binding
        self.lease.take()
        self._guard.stand()
        node = self._look_at_node(local_traffic, links=verify or not follows)
        everything, self._rendered_for = self._rendered_for != node, node
        for binding in self._bindings.values() if everything else bindings:
            self._replace(binding.name, self._rules(binding, node))
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

    def _rules(self, binding: PortalBinding, node: _Node) -> tuple[Rule, ...]:
        """The rules of `binding`, none where its name cannot stand in one."""
        try:
            return portal_rules(binding, self._bind_address, node.host_ip, node.local_traffic, redirects=node.redirects)
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

    def _isolate(self, tables: Tables, groups: Groups, error: ConflictError) -> Groups:
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
        return self._opened().remove()
