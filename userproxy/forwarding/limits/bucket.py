"""A token bucket: how many may come at once, and how many a second after that. Time is an argument."""

from userproxy.forwarding.limits.counts import Column


class Bucket:
    """Full at first. It holds what comes in a second, and one at least.

    It is known by when it will be full again, which each that comes puts off by as long as one takes to come in. With a
    `column` other processes take from it, too.
    """

    __slots__ = ("_column", "_full_at", "_saved", "_step")

    def __init__(self, rate: float, column: Column | None = None) -> None:
        """`rate` is per second."""
        self._step = 1.0 / rate
        self._saved = (max(1.0, rate) - 1.0) / rate
        """By how long the time when it is full may lie ahead while one may come."""
        self._column = column
        self._full_at = float("-inf")
        if column is not None:
            column.forget_taken()

    def wait(self, now: float) -> float:
        """Seconds until one may come: 0 if it may now."""
        full_at = self._full_at if self._column is None else self._column.full_at()
        return max(0.0, full_at - now - self._saved)

    def take(self, now: float) -> None:
        """One comes, whether or not it may: others wait for longer then."""
        if self._column is None:
            self._full_at = max(now, self._full_at) + self._step
        else:
            self._column.take(now, self._step)
