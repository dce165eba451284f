"""Why endpoints are not in a list: the rules of :mod:`~userproxy.routing.selection` in words."""

from collections.abc import Collection, Mapping

from userproxy.model import Endpoint, SliceEndpoint
from userproxy.routing.selection import Locality

_LATE = "not taken over yet"


def exclusions(
    candidates: Mapping[Endpoint, SliceEndpoint],
    listed: Collection[Endpoint],
    locality: Locality,
    *,
    local: bool,
) -> dict[Endpoint, str]:
    """The reason for each of the `candidates` that is not `listed`, in one clause.

    `local` is whether the list is that of this node's endpoints, for a policy of ``Local``.
    """
    members = frozenset(listed)
    return {
        endpoint: _reason(source, locality, local=local)
        for endpoint, source in candidates.items()
        if endpoint not in members
    }


def _reason(source: SliceEndpoint, locality: Locality, *, local: bool) -> str:
    serves = source.ready or (source.serving and source.terminating)
    if not serves:
        return "terminating, and no longer serving" if source.terminating else "not ready"
    if local and source.node != locality.node:
        return f"policy Local: it is on {f'node {source.node}' if source.node else 'no known node'}"
    if not source.ready:
        return "terminating, while others are ready"
    if local or source.hints is None:
        return _LATE
    return _hint(source)


def _hint(source: SliceEndpoint) -> str:
    hints = source.hints
    if hints is None:
        return _LATE
    for word, names in (("node", hints.nodes), ("zone", hints.zones)):
        if names:
            return f"hint: for {word}{'s' if len(names) > 1 else ''} {', '.join(names)}"
    return _LATE
