"""Which conntrack entries lead clients astray. Pure.

NAT rules are consulted for the first packet of a conntrack entry only; all later ones go where the entry says, for as
long as the client keeps it alive. A new rule therefore does nothing for a client that wrote before: to a listener that
is gone or has moved, past the rules because there were none yet, or to a Pod by another proxy's rule. For TCP that
client is one whose SYN nobody has answered: all its retransmissions, for two minutes, go the way of the first one.
"""

import typing
from collections.abc import Iterable, Mapping

from msgspec import Struct

from userproxy.model import PortalBinding, PortalKind, Protocol, Verdict

FlowPortal = tuple[Protocol, str, int]
"""Protocol, address and port of a portal; the address is empty for a port that every address of the node has."""

Ports = tuple[int, int]
"""The local ports that a portal leads to, for clients elsewhere and on this node; 0 is refused or dropped."""

_NOBODY: frozenset[int] = frozenset()
_NOWHERE = (0, 0)


class FlowEntry(typing.Protocol):
    """What must be known of a conntrack entry: where its client wrote to, and who answers the client."""

    @property
    def protocol(self) -> Protocol:
        """TCP or UDP."""

    @property
    def destination(self) -> str:
        """The address that the client wrote to."""

    @property
    def port(self) -> int:
        """The port that the client wrote to."""

    @property
    def destination_local(self) -> bool:
        """Whether `destination` is an address of this node."""

    @property
    def reply_port(self) -> int:
        """The port that answers come from: `port`, unless the entry is translated."""

    @property
    def reply_local(self) -> bool:
        """Whether answers come from an address of this node."""


class Stale(Struct, frozen=True):
    """Tells stale entries from right ones.

    `right` has the local ports that a portal's entries may lead to. `wrong` has those that some entries led to until
    now and must not any more; the portal may be gone.
    """

    right: Mapping[FlowPortal, Ports]
    wrong: Mapping[FlowPortal, frozenset[int]]

    def matches(self, entry: FlowEntry) -> bool:
        """Whether `entry` must go. Entries that concern no portal, of now or before, never match."""
        leads_to = entry.reply_port if entry.reply_local else 0
        own = (entry.protocol, entry.destination, entry.port)
        # In this order, because the rules of addresses come before those of node ports.
        for portal in (own, (entry.protocol, "", entry.port)) if entry.destination_local else (own,):
            if leads_to in self.wrong.get(portal, _NOBODY):
                return True
            if (right := self.right.get(portal)) is not None:
                return not leads_to or leads_to not in right
        return False


class Leads:
    """Where the rules of one family lead each portal, and what became stale since somebody last looked for it."""

    def __init__(self) -> None:
        self._now: dict[FlowPortal, Ports] = {}
        self._before: dict[FlowPortal, Ports] = {}
        self._repaired = False

    def change(self, before: Iterable[PortalBinding], now: Iterable[PortalBinding]) -> None:
        """The rules of `now` stand in place of those of `before`; what is the same may be left out of both."""
        old, new = portal_leads(before), portal_leads(now)
        for portal in old.keys() | new.keys():
            standing, leads = self._now.get(portal), new.get(portal)
            if leads == standing:
                continue
            self._before.setdefault(portal, standing or _NOWHERE)
            if leads is None:
                del self._now[portal]
            else:
                self._now[portal] = leads

    def repair(self) -> None:
        """Somebody else changed the rules, which are right again: any entry may have become stale."""
        self._repaired = True

    @property
    def concerned(self) -> frozenset[Protocol]:
        """The protocols of which there may be stale entries."""
        return frozenset(protocol for protocol, _, _ in (self._now if self._repaired else self._before))

    def take(self) -> Stale:
        """What is to be looked for, which counts as done."""
        wrong: dict[FlowPortal, frozenset[int]] = {}
        for portal, leads in self._before.items():
            now = self._now.get(portal, _NOWHERE)
            if changed := {old for old, new in zip(leads, now, strict=True) if old not in (0, new)}:
                wrong[portal] = frozenset(changed)
        self._before = {}
        self._repaired = False
        return Stale(self._now.copy(), wrong)


def portal_leads(bindings: Iterable[PortalBinding]) -> dict[FlowPortal, Ports]:
    """The local ports that portals lead to."""
    found: dict[FlowPortal, Ports] = {}
    for binding in bindings:
        internal, external, on_node = (
            target.local_port if target.verdict is Verdict.SERVE else 0
            for target in (binding.internal, binding.external, binding.on_node)
        )
        for portal in binding.portals:
            cluster_ip = portal.kind is PortalKind.CLUSTER_IP
            leads = (internal, internal) if cluster_ip else (external, on_node)
            found[binding.name.protocol, portal.ip, portal.port] = leads
    return found
