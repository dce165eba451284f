"""What a drain makes of a listener's snapshot. Pure."""

from collections.abc import Collection, Iterable
from typing import TypeVar

from msgspec import structs

from userproxy.addresses import IPFamily
from userproxy.model import Endpoint, Snapshot, Verdict

T = TypeVar("T")

DRAINED_REASON = "drained on request"


def with_drains(snapshot: Snapshot, drained: Collection[Endpoint], leaving: Iterable[Endpoint] = ()) -> Snapshot:
    """The snapshot without the endpoints that are `drained`, as long as that leaves one.

    `leaving` are endpoints that no slice names any more and whose clients may stay for a while: they count as known.
    """
    kept = _kept(snapshot, drained)
    draining = [endpoint for endpoint in snapshot.endpoints if endpoint not in kept] if kept else []
    gone = sorted(each for each in leaving if _is_of(each, snapshot) and each not in snapshot.endpoints)
    if not draining and not gone:
        return snapshot
    known = snapshot.known
    return structs.replace(
        snapshot,
        endpoints=tuple(kept) if draining else snapshot.endpoints,
        nodes=_of(kept, snapshot.nodes) if draining else snapshot.nodes,
        weights=_of(kept, snapshot.weights) if draining else snapshot.weights,
        known=known if known is None or not gone else tuple(sorted({*known, *gone})),
        draining=(*draining, *gone),
    )


def _kept(snapshot: Snapshot, drained: Collection[Endpoint]) -> dict[Endpoint, int]:
    """The endpoints that are not drained, with their places; none if all are, or nobody is served."""
    if not drained or snapshot.verdict is not Verdict.SERVE:
        return {}
    return {endpoint: place for place, endpoint in enumerate(snapshot.endpoints) if endpoint not in drained}


def _of(kept: dict[Endpoint, int], values: tuple[T, ...]) -> tuple[T, ...]:
    """Those of the values that belong to the endpoints that are kept; none where there are none."""
    return tuple(values[place] for place in kept.values()) if values else ()


def _is_of(endpoint: Endpoint, snapshot: Snapshot) -> bool:
    return (":" in endpoint.ip) is (snapshot.listener.family is IPFamily.IPV6)
