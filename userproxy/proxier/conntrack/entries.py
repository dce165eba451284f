"""Which conntrack entries are stale. Pure.

The kernel looks at NAT rules only for the first packet of a conntrack entry; all later packets go where the entry says,
as long as the client keeps it alive. So a new rule does nothing for a client that has sent packets before: to a
listener that is closed or has another port now, past the rules because there were none yet, or to a Pod by another
proxy's rule. With TCP this concerns clients whose SYN nobody has answered: for two minutes, every retransmission goes
where the first one went.
"""

import typing
from collections.abc import Generator, Iterable, Mapping

from msgspec import Struct

from userproxy.model import PortalBinding, PortalKind, Protocol, Verdict

FlowPortal = tuple[Protocol, str, int]
"""Protocol, address and port of a portal; the address is empty for a node port on every address of the node."""

Ports = tuple[int, int]
"""The local ports to which a portal is translated, for clients elsewhere and on this node; 0: not translated."""

_NOBODY: frozenset[int] = frozenset()
_NOWHERE = (0, 0)


class FlowEntry(typing.Protocol):
    """What must be known of a conntrack entry: where its client sent to, and where answers come from."""

    @property
    def protocol(self) -> Protocol:
        """TCP or UDP."""

    @property
    def destination(self) -> str:
        """The address that the client sent to."""

    @property
    def port(self) -> int:
        """The port that the client sent to."""

    @property
    def destination_local(self) -> bool:
        """Whether `destination` is an address of this node."""

    @property
    def reply_port(self) -> int:
        """The port that answers come from: `port`, unless the entry is translated."""

    @property
    def reply_local(self) -> bool:
        """Whether answers come from an address of this node."""


class StaleEntries(Struct, frozen=True):
    """Tells stale entries from valid ones.

    `right` has the local ports to which a portal's entries may be translated. `wrong` has those to which some entries
    were translated until now and must not be any more; their portal may be gone.
    """

    right: Mapping[FlowPortal, Ports]
    wrong: Mapping[FlowPortal, frozenset[int]]

    def matches(self, entry: FlowEntry) -> bool:
        """Whether `entry` is stale. Entries that concern no portal, of now or before, never are."""
        target = entry.reply_port if entry.reply_local else 0
        own = (entry.protocol, entry.destination, entry.port)
        # In this order, because the rules of addresses come before those of node ports.
        for portal in (own, (entry.protocol, "", entry.port)) if entry.destination_local else (own,):
            if target in self.wrong.get(portal, _NOBODY):
                return True
            if (right := self.right.get(portal)) is not None:
                return not target or target not in right
        return False


class PortalTargets:
    """The local ports to which one family's portals are translated, and what has changed since the last `take`.

    What it does about many bindings may be done in steps, by iterators between whose steps others have their turn.
    """

    def __init__(self) -> None:
        self._now: dict[FlowPortal, Ports] = {}
        self._before: dict[FlowPortal, Ports] = {}
        self._changed: set[Protocol] = set()
        """The protocols of these portals."""
        self._repaired = False

    def change(self, before: Iterable[PortalBinding], now: Iterable[PortalBinding]) -> None:
        """The rules of `now` have replaced those of `before`. Bindings that are in both may be left out."""
        for _ in self.changing(before, now):
            pass

    def changing(self, before: Iterable[PortalBinding], now: Iterable[PortalBinding]) -> Generator[None, None, None]:
        """The same in steps."""
        old: dict[FlowPortal, Ports] = {}
        new: dict[FlowPortal, Ports] = {}
        for bindings, found in ((before, old), (now, new)):
            for binding in bindings:
                found.update(portal_targets((binding,)))
                yield
        for portal in {**old, **new}:
            self._lead(portal, new.get(portal))
            yield

    def _lead(self, portal: FlowPortal, ports: Ports | None) -> None:
        known = self._now.get(portal)
        if ports == known:
            return
        self._before.setdefault(portal, known or _NOWHERE)
        self._changed.add(portal[0])
        if ports is None:
            del self._now[portal]
        else:
            self._now[portal] = ports

    def repair(self) -> None:
        """Something else had changed the rules, so any entry may have become stale."""
        self._repaired = True

    @property
    def concerned(self) -> set[Protocol]:
        """The protocols of which there may be stale entries."""
        return self._changed.union({each[0] for each in self._now} if self._repaired else ())

    def taking(self) -> Generator[None, None, StaleEntries]:
        """What to search for, found in steps; the caller is expected to do it."""
        before, self._before = self._before, {}
        self._changed = set()
        self._repaired = False
        wrong: dict[FlowPortal, frozenset[int]] = {}
        for portal, ports in before.items():
            now = self._now.get(portal, _NOWHERE)
            if changed := {old for old, new in zip(ports, now, strict=True) if old not in (0, new)}:
                wrong[portal] = frozenset(changed)
            yield
        return StaleEntries(self._now.copy(), wrong)


def portal_targets(bindings: Iterable[PortalBinding]) -> dict[FlowPortal, Ports]:
    """The local ports to which the rules of `bindings` translate each portal."""
    found: dict[FlowPortal, Ports] = {}
    for binding in bindings:
        internal, external, on_node = (
            target.local_port if target.verdict is Verdict.SERVE else 0
            for target in (binding.internal, binding.external, binding.on_node)
        )
        for portal in binding.portals:
            cluster_ip = portal.kind is PortalKind.CLUSTER_IP
            ports = (internal, internal) if cluster_ip else (external, on_node)
            found[binding.name.protocol, portal.ip, portal.port] = ports
    return found
