"""Whether the proxy does its work and its node is to get traffic, as kube-proxy 1.36 tells. Pure state.

Proxy and node are judged apart: ``/healthz`` asks about both, ``/livez`` about the proxy alone (KEP-3836).
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from userproxy.model import IPFamily, Node
from userproxy.telemetry.moments import ZERO_TIME, Moment, rfc3339_nano

_BEING_REMOVED: Final = "ToBeDeletedByClusterAutoscaler"
"""The taint by which the cluster autoscaler announces that it takes a node away."""


class Answer(Struct, frozen=True):
    """One answer of the health port: HTTP status and JSON body."""

    status: int
    body: bytes


class FamilyHealth:
    """The syncs of one IP family."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._oldest_queued: float | None = None
        self._last_queued: float | None = None
        self.last_updated: Moment | None = None

    @property
    def known(self) -> bool:
        """Whether anything was ever queued or synced."""
        return self._last_queued is not None or self.last_updated is not None

    def queued(self, now: Moment) -> None:
        """A change waits to be synced."""
        if self._oldest_queued is None:
            self._oldest_queued = now.monotonic
        self._last_queued = now.monotonic

    def updated(self, now: Moment, began: Moment | None = None) -> None:
        """A sync has succeeded.

        It covers the changes queued until it `began`; a later one waits from then on. Without `began`
        nothing is left waiting.
        """
        self.last_updated = now
        self._oldest_queued = None
        if began is not None and self._last_queued is not None and self._last_queued > began.monotonic:
            self._oldest_queued = began.monotonic

    def healthy(self, now: Moment) -> bool:
        """False once the oldest waiting change is as old as the limit."""
        return self._oldest_queued is None or now.monotonic - self._oldest_queued < self.limit


class Health:
    """The health of the proxy and the eligibility of its node; `sync_period` is seconds, `families` are those served.

    A family is unhealthy when the oldest change queued since its last successful sync is two sync periods
    old, and the proxy when any family is. It is healthy while it starts and whenever nothing waits.
    """

    def __init__(self, sync_period: float, families: Iterable[IPFamily]) -> None:
        self._families = {family: FamilyHealth(2 * sync_period) for family in families}
        self._node: Node | None = None

    def family(self, family: IPFamily) -> FamilyHealth:
        """The part of one family; KeyError for one that is not served."""
        return self._families[family]

    def set_sync_period(self, sync_period: float) -> None:
        """Judge by another sync period from now on."""
        for family in self._families.values():
            family.limit = 2 * sync_period

    def node_seen(self, node: Node) -> None:
        """Take notice of our own Node. Once it is gone, its last version keeps deciding."""
        self._node = node

    @property
    def node_eligible(self) -> bool:
        """Whether load balancers may send to the node: it is known, and nobody is about to remove it."""
        return self._node is not None and not self._node.deleting and _BEING_REMOVED not in self._node.taints

    def healthy(self, now: Moment) -> bool:
        return all(family.healthy(now) for family in self._families.values())

    def healthz(self, now: Moment) -> Answer:
        """What ``/healthz`` answers: 200 if the proxy is healthy and the node eligible, else 503."""
        return self._answer(now, ok=self.healthy(now) and self.node_eligible, node_eligible=self.node_eligible)

    def livez(self, now: Moment) -> Answer:
        """What ``/livez`` answers: 200 if the proxy is healthy, else 503."""
        return self._answer(now, ok=self.healthy(now), node_eligible=UNSET)

    def _answer(self, now: Moment, *, ok: bool, node_eligible: bool | UnsetType) -> Answer:
        updates = [family.last_updated for family in self._families.values() if family.last_updated is not None]
        newest = max((moment.wall_ns for moment in updates), default=None)
        status = {name: _family_body(family, now) for name, family in sorted(self._families.items()) if family.known}
        body = _Body(
            last_updated=_shown(now.wall_ns if ok else newest),
            current_time=_shown(now.wall_ns),
            node_eligible=node_eligible,
            healthy=self.healthy(now),
            status=status or UNSET,
        )
        return Answer(200 if ok else 503, msgspec.json.encode(body))


class _FamilyBody(Struct, frozen=True, rename="camel"):
    last_updated: str
    healthy: bool


class _Body(Struct, frozen=True, rename="camel"):
    """The body of an answer; the order of its fields is kube-proxy's."""

    last_updated: str
    current_time: str
    node_eligible: bool | UnsetType
    healthy: bool
    status: dict[IPFamily, _FamilyBody] | UnsetType


def _family_body(family: FamilyHealth, now: Moment) -> _FamilyBody:
    updated = family.last_updated
    return _FamilyBody(_shown(updated.wall_ns if updated else None), family.healthy(now))


def _shown(wall_ns: int | None) -> str:
    return ZERO_TIME if wall_ns is None else rfc3339_nano(wall_ns)
