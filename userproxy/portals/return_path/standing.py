"""What makes answers come back, as one: rules of netfilter and policy routing, on what this host has around it."""

import socket
from collections.abc import Collection, Iterator
from typing import Protocol

import structlog
from msgspec import structs

from userproxy.addresses import IPFamily
from userproxy.errors import KernelToolError
from userproxy.model import LocalTraffic, ReturnPath
from userproxy.portals.host import may_write_rules
from userproxy.portals.return_path import policy_routing
from userproxy.portals.return_path.marks import Mark, known_users, overlapping
from userproxy.portals.return_path.nftables import NftablesRules
from userproxy.portals.return_path.rules import PodBridge
from userproxy.portals.return_path.surroundings import Surroundings, look
from userproxy.portals.return_path.xtables import XtablesRules

log = structlog.get_logger()


class Rules(Protocol):
    """One way to write the rules of a family. Raises KernelToolError."""

    name: str
    announced: bool
    """Whether the kernel tells when others change them."""

    def write(self, mark: Mark, bridges: tuple[PodBridge, ...]) -> str:
        """Have them stand; why answers within `bridges` do not rise, empty if they do."""

    def stands(self) -> bool:
        """Whether what was written last is still there."""

    def close(self) -> None:
        """Let go of those that belong to this process."""


class Standing:
    """The way back of one address family, in the network namespace of the calling thread. Blocking."""

    def __init__(self, family: IPFamily, mark: Mark, *, guard: bool = True) -> None:
        self._family = family
        self._mark = mark
        self._nftables = NftablesRules(family, guard=guard)
        self.ways: tuple[Rules, ...] = (self._nftables, XtablesRules(family))
        """How the rules may be written, the best first; whatever the portals are written by."""
        self._table: int | None = None
        self._way: Rules | None = None
        """How the rules were written last."""
        self._told_users: frozenset[str] = frozenset()
        self._told_refusal = ""

    def make(self, local_traffic: LocalTraffic, node_addresses: Collection[str]) -> ReturnPath:
        """Have it stand for what is around this host now, and say what can be had.

        Nothing is raised: what fails is the path's ``problem``.
        """
        around = Surroundings()
        try:
            around = look(self._family, local_traffic, node_addresses)
            problem, refusal = self._obstacle(around) or "", ""
            if not problem:
                refusal = self.write(around)
        except KernelToolError as error:
            problem = str(error)
        except OSError as error:
            problem = f"the kernel refuses policy routing: {error.strerror or error}"
        networks = around.networks
        if not problem and not refusal:
            networks = tuple(structs.replace(each, answers_rise=each.of_pods and each.is_bridge) for each in networks)
        return ReturnPath(self._family, problem, networks)

    def missing(self) -> list[str]:
        """What others have removed of what was written, in a line of text each. Raises KernelToolError and OSError."""
        found = []
        if self._table is not None and not policy_routing.stands(self._family, self._mark, self._table):
            found.append(f"routing rules and table {self._table} for packets to transparent sockets")
        if self._way is not None and not self._way.stands():
            found.append(f"{self._way.name}: rules for packets to transparent sockets")
        return found

    @property
    def announced(self) -> bool:
        """Whether the kernel tells when others change the rules."""
        return self._way is None or self._way.announced

    @property
    def owner(self) -> socket.socket | None:
        """The socket to which the rules belong; None where they belong to nobody."""
        return self._nftables.owner

    def close(self) -> None:
        """Let go of the rules that belong to this process. What others could use as well stands."""
        for way in self.ways:
            way.close()

    def _obstacle(self, around: Surroundings) -> str:
        if not may_write_rules():
            return "it takes the capability CAP_NET_ADMIN, which this process does not have"
        return around.obstacle

    def write(self, around: Surroundings) -> str:
        """Have it stand for these surroundings; returns why answers within their bridges do not rise.

        Raises KernelToolError and OSError where it cannot be had at all.
        """
        standing = policy_routing.rules(self._family)
        table = policy_routing.free_table(standing, policy_routing.local_defaults(self._family))
        if table is None:
            raise KernelToolError(f"all routing tables from {policy_routing.TABLES[0]} on are used by others")
        self._tell_of_others(standing)
        policy_routing.make_stand(self._family, self._mark, table)
        self._table = table
        if not policy_routing.stands(self._family, self._mark, table):
            raise KernelToolError("the kernel has made other routing rules than those asked for. It takes Linux 4.17")
        refusal = self.write_rules(around.bridges)
        if refusal and refusal != self._told_refusal:
            text = "Between Pods of one bridge backends see the node's address instead of the client's"
            log.warning(text, family=self._family, reason=refusal)
        self._told_refusal = refusal
        return refusal

    def write_rules(self, bridges: tuple[PodBridge, ...]) -> str:
        """Have the rules alone stand, written the best way that works; why answers within `bridges` do not rise.

        Raises KernelToolError where no way works.
        """
        reasons = []
        for way in self.ways:
            try:
                refusal = way.write(self._mark, bridges)
                self._way = way
                return refusal
            except KernelToolError as error:
                reasons.append(f"{way.name}: {error}")
        raise KernelToolError("; ".join(reasons))

    def _tell_of_others(self, standing: list[policy_routing.Rule]) -> None:
        users = frozenset(self._others(standing))
        for user in sorted(users - self._told_users):
            text = "Others use bits of the mark of packets to transparent sockets: choose another --transparent-mark"
            log.warning(text, family=self._family, mark=str(self._mark), by=user)
        self._told_users = users

    def _others(self, standing: list[policy_routing.Rule]) -> Iterator[str]:
        yield from known_users(self._mark)
        theirs = (Mark(rule.mark, rule.mask) for rule in standing if not rule.ours and rule.mask)
        for mark in overlapping(self._mark, theirs):
            yield f"a routing rule for the mark {mark}"
