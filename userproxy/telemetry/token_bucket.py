"""How often something may be done. Pure: the time is an argument."""


class TokenBucket:
    """So many at once as `burst` says, and then one every `seconds`."""

    __slots__ = ("_burst", "_left", "_seconds", "_since")

    def __init__(self, burst: int, seconds: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._left = float(burst)
        self._since: float | None = None

    def take(self, now: float) -> bool:
        """Whether it may be done at `now`, in seconds of any clock that does not go back; then it counts as done."""
        return self.wait(now) == 0

    def wait(self, now: float) -> float:
        """Seconds until it may be done; 0 means that it may be now, and counts as done."""
        if self._since is not None:
            self._left = min(self._burst, self._left + (now - self._since) / self._seconds)
        self._since = now
        if self._left < 1:
            return (1 - self._left) * self._seconds
        self._left -= 1
        return 0
