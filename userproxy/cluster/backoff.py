"""How long to wait before the next try. Pure: randomness and time are arguments.

The figures are kube-proxy's, from client-go's reflector: 0.8 s, doubled up to 30 s, up to as much again at random,
and from the beginning after two quiet minutes.
"""

from random import Random

from msgspec import Struct


class BackoffFigures(Struct, frozen=True):
    """All in seconds, but `factor`. `longest_asked` limits what a server may ask for by Retry-After."""

    first: float = 0.8
    factor: float = 2.0
    longest: float = 30.0
    quiet: float = 120.0
    longest_asked: float = 120.0


class Backoff:
    """The pauses between tries of one thing."""

    def __init__(self, figures: BackoffFigures, random: Random) -> None:
        self._figures = figures
        self._random = random
        self._step = figures.first
        self._resumed = float("-inf")

    def pause(self, now: float, retry_after: float | None = None) -> float:
        """Seconds to wait after a failure at `now` (any clock that only goes forward), before the next try.

        It is never shorter than `retry_after`, what the server asked for, within reason. The random part keeps
        the nodes of a cluster from coming back all at once.
        """
        figures = self._figures
        if now - self._resumed >= figures.quiet:
            self._step = figures.first
        seconds = self._step * (1 + self._random.random())
        self._step = min(self._step * figures.factor, figures.longest)
        if retry_after is not None:
            seconds = max(seconds, min(retry_after, figures.longest_asked))
        self._resumed = now + seconds
        return seconds
