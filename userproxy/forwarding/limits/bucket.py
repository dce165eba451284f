"""A token bucket: how many may come at once, and how many a second after that. Time is an argument."""


class Bucket:
    """Full at first. It holds what comes in a second, and one at least."""

    __slots__ = ("_at", "_most", "_rate", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        """`rate` is per second."""
        self._rate = rate
        self._most = max(1.0, rate)
        self._tokens = self._most
        self._at = now

    def wait(self, now: float) -> float:
        """Seconds until one may come: 0 if it may now."""
        self._fill(now)
        return max(0.0, (1.0 - self._tokens) / self._rate)

    def take(self, now: float) -> None:
        """One comes, whether or not it may: others wait for longer then."""
        self._fill(now)
        self._tokens -= 1.0

    def _fill(self, now: float) -> None:
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
