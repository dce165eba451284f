"""How long to wait before the next try of something that has failed. Pure."""

from random import Random

from msgspec import Struct


class BackoffFigures(Struct, frozen=True):
    """Pauses between tries: kube-proxy's figures, from client-go's reflector. All in seconds, except `factor`.

    The first pause is `first`, each further one `factor` times as long, up to `longest`; as much again is added at
    random. After `quiet` seconds without a failure it begins with `first` again. `longest_asked` limits what a server
    may ask for by Retry-After.
    """

    first: float = 0.8
    factor: float = 2.0
    longest: float = 30.0
    quiet: float = 120.0
    longest_asked: float = 120.0


class Backoff:
    """The pauses between tries of one thing. Pure: time and randomness are arguments."""

    def __init__(self, figures: BackoffFigures, random: Random) -> None:
        self._figures = figures
        self._random = random
        self._step = figures.first
        self._resumed = float("-inf")

    def pause(self, now: float, retry_after: float | None = None) -> float:
        """Seconds to wait after a failure at `now` (of any monotonic clock) before the next try.

        Not less than `retry_after`, which the server asked for, as far as `longest_asked` allows. The random part keeps
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
