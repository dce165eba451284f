"""When bytes that have come may leave: a link of a certain rate and latency. Pure."""

from collections.abc import Iterator
from typing import Final

from userproxy.forwarding.faults.shape import Way

SLICES_PER_SECOND: Final = 50
"""At a rate bytes leave in so many pieces a second, so that they look like a stream."""


class Schedule:
    """The link: what has come first leaves first, at the rate, and a latency later.

    The rate counts from when a piece comes, or the one before has left: what is not used is not saved up.
    """

    __slots__ = ("_free", "_last", "way")

    def __init__(self, way: Way) -> None:
        self.way = way
        self._free = 0.0
        """When the last bytes so far will have left, without latency."""
        self._last = 0.0
        """When the last ones leave, with it: none overtakes another."""

    @property
    def piece(self) -> int | None:
        """How many bytes are to leave together at most; None for any number."""
        rate = self.way.rate
        return None if rate is None else max(1, rate // SLICES_PER_SECOND)

    def due(self, size: int, now: float, chance: float, since: float | None = None) -> float:
        """When a piece may leave that has come now. `chance` is from 0 to 1, and decides on the jitter.

        One that could not come sooner, for want of room, has waited at the link since then.
        """
        way = self.way
        leaves = now
        if way.rate is not None:
            self._free = max(self._free, now if since is None else since) + size / way.rate
            leaves = max(now, self._free)
        leaves += max(0.0, way.seconds + way.jitter * (2 * chance - 1))
        self._last = max(self._last, leaves)
        return self._last

    def pieces(self, data: memoryview) -> Iterator[memoryview]:
        """The bytes, in pieces that are to leave one by one."""
        size = self.piece or len(data)
        return (data[start : start + size] for start in range(0, len(data), size))
