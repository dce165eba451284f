"""What ``/healthz`` and ``/livez`` answer, 200 or 503, and why. Pure.

``/healthz`` judges the proxy and its node as kube-proxy 1.36 does (KEP-3836). ``/livez`` says whether a restart could
help. Rules that cannot be written are no reason for one: a restart would cut every connection and change nothing.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from userproxy.model import IPFamily, Node
from userproxy.telemetry.timestamps import ZERO_TIME, Timestamp, rfc3339_nano

_BEING_REMOVED: Final = "ToBeDeletedByClusterAutoscaler"
"""The taint by which the cluster autoscaler announces that it takes a node away."""

_FAILING_SECONDS: Final = 10.0
"""How long syncs may fail until it counts: half a dozen tries. Another program may hold a lock for a while."""

_STUCK_SECONDS: Final = 600.0
"""If no sync has begun or ended for this long and a few sync periods more, the sync hangs: the programs that write
rules have far shorter time limits of their own."""


class Answer(Struct, frozen=True):
    """One answer of the health port: HTTP status and JSON body."""

    status: int
    body: bytes


class FamilyHealth:
    """The syncs of one IP family."""

    def __init__(self, sync_period: float) -> None:
        self.sync_period = sync_period
        self._last_turn: float | None = None
        self._oldest_queued: float | None = None
        self._last_queued: float | None = None
        self._failing_since: float | None = None
        self.last_updated: Timestamp | None = None

    @property
    def known(self) -> bool:
        """Whether anything was ever queued or synced."""
        return self._last_queued is not None or self.last_updated is not None

    @property
    def told(self) -> bool:
        """Whether the source has said what to serve."""
        return self._last_queued is not None

    def turned(self, now: Timestamp) -> None:
        """A sync has begun or ended, whether it succeeded or not."""
        self._last_turn = now.monotonic

    def queued(self, now: Timestamp) -> None:
        """A change waits to be synced from now on."""
        if self._oldest_queued is None:
            self._oldest_queued = now.monotonic
        self._last_queued = now.monotonic

    def failed(self, began: Timestamp) -> None:
        """A sync that `began` then has failed: what stands may not be what is wanted, even if nothing is queued."""
        if self._failing_since is None:
            self._failing_since = began.monotonic

    def updated(self, now: Timestamp, began: Timestamp | None = None) -> None:
        """A sync has succeeded.

        It covers the changes queued until it `began`; later ones count as waiting since then. Without `began` it covers
        all of them.
        """
        self.last_updated = now
        self._oldest_queued = self._failing_since = None
        if began is not None and self._last_queued is not None and self._last_queued > began.monotonic:
            self._oldest_queued = began.monotonic

    def healthy(self, now: Timestamp) -> bool:
        """False once the oldest waiting change is two sync periods old, or syncs have failed for ten seconds."""
        patience = 2 * self.sync_period
        late = _lasts(self._oldest_queued, patience, now)
        return not (late or _lasts(self._failing_since, min(_FAILING_SECONDS, patience), now))

    @property
    def failing(self) -> bool:
        """Whether the last sync has failed."""
        return self._failing_since is not None

    def alive(self, now: Timestamp) -> bool:
        """Whether syncs still begin and end, successfully or not. True before the first one."""
        return self._last_turn is None or now.monotonic - self._last_turn < _STUCK_SECONDS + 4 * self.sync_period


class Health:
    """The health of the proxy and the eligibility of its node; `sync_period` is seconds, `families` are those served.

    A family is unhealthy if the oldest change queued since its last successful sync is two sync periods old, or if its
    syncs, repairs among them, have failed for ten seconds. The proxy is unhealthy if any family is. Unlike kube-proxy,
    the proxy is not healthy before its source has said what to serve.
    """

    def __init__(self, sync_period: float, families: Iterable[IPFamily]) -> None:
        self._families = {family: FamilyHealth(sync_period) for family in families}
        self._node: Node | None = None
        self._nodes_listed: Callable[[], bool] = lambda: False
        self._leaving = False
        self._warnings: tuple[str, ...] = ()
        self._down = ""

    def family(self, family: IPFamily) -> FamilyHealth:
        """The part of one family; KeyError for one that is not served."""
        return self._families[family]

    def set_sync_period(self, sync_period: float) -> None:
        """Judge by another sync period from now on."""
        for family in self._families.values():
            family.sync_period = sync_period

    def node_seen(self, node: Node) -> None:
        """Our own Node as it is now. After it is deleted, its last version still decides."""
        self._node = node

    def leave(self) -> None:
        """Answer 503 from now on, so that load balancers send elsewhere: the process is being stopped."""
        self._leaving = True

    def set_down(self, reason: str) -> None:
        """Be unhealthy for this reason from now on, unless it is empty: whatever is synced, nobody serves."""
        self._down = reason

    def warn(self, warnings: Iterable[str]) -> None:
        """Put these sentences into every answer: what cannot be served although the proxy is healthy."""
        self._warnings = tuple(warnings)

    def ask_for_nodes(self, listed: Callable[[], bool]) -> None:
        """`listed` says whether the API has delivered a list of Nodes, so that a Node that is not in it is missing."""
        self._nodes_listed = listed

    @property
    def node_eligible(self) -> bool:
        """Whether load balancers may send to the node: it is known, and not about to be removed."""
        return self._against_node is None

    @property
    def _against_node(self) -> str | None:
        if self._node is None:
            return "our Node is not in the API" if self._nodes_listed() else "our Node has not been read yet"
        if self._node.deleting:
            return "our Node is being deleted"
        return f"our Node has the taint {_BEING_REMOVED}" if _BEING_REMOVED in self._node.taints else None

    def healthy(self, now: Timestamp) -> bool:
        """Whether the proxy is healthy, whatever its node."""
        return self._against_proxy(now) is None

    def _against_proxy(self, now: Timestamp) -> str | None:
        if self._leaving:
            return "userproxy is being stopped"
        if self._down:
            return self._down
        if not any(family.told for family in self._families.values()):
            return "what to serve has not been read yet"
        failing = [name for name, family in sorted(self._families.items()) if not family.healthy(now)]
        if not failing:
            return None
        broken = any(self._families[name].failing for name in failing)
        return f"{' and '.join(failing)}: {'portals cannot be synced' if broken else 'changes wait to be served'}"

    def healthz(self, now: Timestamp) -> Answer:
        """What ``/healthz`` answers: 200 if the proxy is healthy and the node eligible, else 503 with the reason."""
        reasons = filter(None, (self._against_proxy(now), self._against_node))
        return self._answer(now, "; ".join(reasons), node_eligible=self.node_eligible)

    def livez(self, now: Timestamp) -> Answer:
        """What ``/livez`` answers: 200 as long as syncs begin and end, whether they succeed or not, else 503.

        Any answer at all shows that the event loop runs. ``healthy`` in the body is that of `healthz`.
        """
        stuck = [name for name, family in sorted(self._families.items()) if not family.alive(now)]
        reason = f"{' and '.join(stuck)}: the sync is stuck" if stuck else ""
        return self._answer(now, reason, node_eligible=UNSET)

    def _answer(self, now: Timestamp, reason: str, *, node_eligible: bool | UnsetType) -> Answer:
        ok = not reason
        updates = [family.last_updated for family in self._families.values() if family.last_updated is not None]
        newest = max((timestamp.wall_ns for timestamp in updates), default=None)
        status = {name: _family_body(family, now) for name, family in sorted(self._families.items()) if family.known}
        body = _Body(
            last_updated=_shown(now.wall_ns if ok else newest),
            current_time=_shown(now.wall_ns),
            node_eligible=node_eligible,
            healthy=self.healthy(now),
            status=status or UNSET,
            reason=UNSET if ok else reason,
            warnings=self._warnings or UNSET,
        )
        return Answer(200 if ok else 503, msgspec.json.encode(body))


class _FamilyBody(Struct, frozen=True, rename="camel"):
    last_updated: str
    healthy: bool


class _Body(Struct, frozen=True, rename="camel"):
    """The body of an answer; the order of its fields is kube-proxy's, which has no ``reason`` and no ``warnings``."""

    last_updated: str
    current_time: str
    node_eligible: bool | UnsetType
    healthy: bool
    status: dict[IPFamily, _FamilyBody] | UnsetType
    reason: str | UnsetType
    warnings: tuple[str, ...] | UnsetType


def _family_body(family: FamilyHealth, now: Timestamp) -> _FamilyBody:
    updated = family.last_updated
    return _FamilyBody(_shown(updated.wall_ns if updated else None), family.healthy(now))


def _lasts(since: float | None, seconds: float, now: Timestamp) -> bool:
    return since is not None and now.monotonic - since >= seconds


def _shown(wall_ns: int | None) -> str:
    return ZERO_TIME if wall_ns is None else rfc3339_nano(wall_ns)
