"""Random: each endpoint as likely as its weight says, whatever came before."""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate

from userproxy.model import Endpoint
from userproxy.routing.balancers.interface import Pool


class RandomChoice:
    """Endpoints by chance. The next number is drawn already, so what is asked for beforehand is what comes."""

    __slots__ = ("_bounds", "_drawn", "_endpoints", "_random", "_weights")

    def __init__(self, pool: Pool) -> None:
        self._endpoints = tuple(pool.endpoints)
        self._weights = tuple(pool.weights)
        self._bounds = tuple(accumulate(pool.weights))
        self._random = pool.random
        self._drawn = pool.random.random()

    def choose(self, _client: str, _now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        endpoint = self._drawn_among(avoided)
        self._drawn = self._random.random()
        return endpoint

    def peek(self, _client: str, _now: float, avoided: Collection[Endpoint] = ()) -> tuple[Endpoint, str]:
        return self._drawn_among(avoided), "it was drawn by chance"

    @property
    def turn(self) -> tuple[int, ...]:
        return ()

    def resume(self, turn: tuple[int, ...]) -> None:
        """Chance needs no past."""

    def _drawn_among(self, avoided: Collection[Endpoint]) -> Endpoint:
        endpoints: Sequence[Endpoint] = self._endpoints
        bounds: Sequence[int] = self._bounds
        if avoided:
            left = [pair for pair in zip(endpoints, self._weights, strict=True) if pair[0] not in avoided]
            endpoints, bounds = [each for each, _ in left], list(accumulate(weight for _, weight in left))
        return endpoints[bisect_right(bounds, self._drawn * bounds[-1])]
