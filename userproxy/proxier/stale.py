"""Which conntrack entries lead UDP clients astray. Pure.

NAT rules are consulted for the first datagram of a conntrack entry only; all later ones go where the entry says,
for as long as the client keeps it alive. A new rule therefore does nothing for a client that wrote before: to a
listener that is gone or has moved, past the rules because there were none yet, or to a Pod by another proxy's rule.
"""

import typing
from collections.abc import Iterable, Mapping

from msgspec import Struct

from userproxy.model import PortalBinding, PortalKind, Protocol, Verdict

UdpPortal = tuple[str, int]
"""Address and port of a portal; the address is empty for a port that every address of the node has."""

_NOBODY: frozenset[int] = frozenset()


class UdpEntry(typing.Protocol):
    """What must be known of a conntrack entry: where its client wrote to, and who answers the client."""

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


class StaleUdp(Struct, frozen=True):
    """Tells stale entries from right ones.

    `right` has the local ports that a portal's entries may lead to: none where every datagram is refused or
    dropped. `wrong` has those that some entries led to until now and must not any more; the portal may be gone.
    """

    right: Mapping[UdpPortal, frozenset[int]]
    wrong: Mapping[UdpPortal, frozenset[int]]

    def matches(self, entry: UdpEntry) -> bool:
        """Whether `entry` must go. Entries that concern no portal, of now or before, never match."""
        leads_to = entry.reply_port if entry.reply_local else 0
        own = (entry.destination, entry.port)
        # In this order, because the rules of addresses come before those of node ports.
        for portal in (own, ("", entry.port)) if entry.destination_local else (own,):
            if leads_to in self.wrong.get(portal, _NOBODY):
                return True
            if (right := self.right.get(portal)) is not None:
                return leads_to not in right
        return False


def stale_udp(now: Iterable[PortalBinding], before: Iterable[PortalBinding] = ()) -> StaleUdp:
    """What to look for once the rules of `now` stand in place of those of `before`; bindings of one family."""
    current = udp_leads(now)
    wrong: dict[UdpPortal, frozenset[int]] = {}
    for portal, leads in udp_leads(before).items():
        changed = {old for old, new in zip(leads, current.get(portal, (0, 0)), strict=True) if old not in (0, new)}
        if changed:
            wrong[portal] = frozenset(changed)
    return StaleUdp({portal: frozenset(leads) - {0} for portal, leads in current.items()}, wrong)


def udp_leads(bindings: Iterable[PortalBinding]) -> dict[UdpPortal, tuple[int, int]]:
    """The local ports that UDP portals lead to, for clients elsewhere and on this node; 0 is refused or dropped.

    Where this is the same before and after a sync of the portals, no entry has become stale by it.
    """
    found: dict[UdpPortal, tuple[int, int]] = {}
    for binding in bindings:
        if binding.name.protocol is not Protocol.UDP:
            continue
        internal, external, on_node = (
            lead.local_port if lead.verdict is Verdict.SERVE else 0
            for lead in (binding.internal, binding.external, binding.on_node)
        )
        for portal in binding.portals:
            cluster_ip = portal.kind is PortalKind.CLUSTER_IP
            found[portal.ip, portal.port] = (internal, internal) if cluster_ip else (external, on_node)
    return found
