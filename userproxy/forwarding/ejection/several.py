"""What an endpoint does is seen by several listeners, where the flows of all of them are counted together."""

from collections.abc import Sequence

from userproxy.forwarding.observation.counters import SharedCount, SharedCounts
from userproxy.model import Endpoint


class _CountOfSeveral:
    """Where each of several listeners has the same endpoint."""

    __slots__ = ("_counts",)

    def __init__(self, counts: Sequence[SharedCount]) -> None:
        self._counts = counts

    def count(self, total: int = 0, bytes_down: int = 0) -> None:
        """See :class:`SharedCount`."""
        for each in self._counts:
            each.count(total, bytes_down)


class _CountsOfSeveral:
    """Where several listeners have their endpoints."""

    __slots__ = ("_shared",)

    def __init__(self, shared: Sequence[SharedCounts]) -> None:
        self._shared = shared

    def get(self, endpoint: Endpoint) -> SharedCount | None:
        """See :class:`SharedCounts`."""
        found = [count for each in self._shared if (count := each.get(endpoint)) is not None]
        return _CountOfSeveral(found) if len(found) > 1 else next(iter(found), None)


def of_all(shared: Sequence[SharedCounts]) -> SharedCounts | None:
    """What counts wherever one of `shared` does; None where there is none."""
    return _CountsOfSeveral(shared) if len(shared) > 1 else next(iter(shared), None)
