"""Source hash: a client's address decides, and an endpoint that leaves moves only its own clients."""

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from math import exp, log
from typing import Final

from userproxy.model import Endpoint
from userproxy.routing.balancers.hashing import MixedLanes, hash64, mixed
from userproxy.routing.balancers.interface import Pool

MANY: Final = 32
"""With so many endpoints all scores are worked out at once, and clients are remembered."""

MOST_REMEMBERED: Final = 4096
"""Clients whose endpoint a listener remembers, some 200 bytes each. It saves the scores and decides nothing."""

_MOST_WEIGHTS: Final = 16
"""Endpoints of so many different weights at most are looked at weight by weight."""

_PARTS: Final = 16
_MARGIN: Final = 1e-9
"""Of a number between 0 and 1: more than rounding can do to a score."""


class SourceHash:
    """Rendezvous hashing (Thaler and Ravishankar, 1996): the endpoint with the highest score for the client's address.

    The scores of an endpoint depend on no other one, so those who come or go move only their own clients, and who
    cannot reach the first tries the one that would be first without it. Weights are Schindelhauer and Schomaker's
    (2005): a weight that changes moves clients only to or from its endpoint.
    """

    __slots__ = ("_groups", "_keys", "_remembered", "_weights")

    def __init__(self, pool: Pool) -> None:
        ranked = sorted(zip(map(_key, pool.endpoints), pool.endpoints, pool.weights, strict=True))
        self._keys = tuple((endpoint, key) for key, endpoint, _ in ranked)
        self._weights = () if pool.is_even else tuple(weight for _, _, weight in ranked)
        self._remembered: dict[str, Endpoint] = {}
        self._groups: Sequence[_Group | _Motley] = ()
        """Endpoints of one weight each, or all of them together; made when they are first needed."""

    def choose(self, client: str, _now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        if len(self._keys) < MANY:
            return self._highest(hash64(client), avoided)
        found = self._remembered.get(client)
        if found is None:
            found = self._highest_of_many(hash64(client), ())
            if len(self._remembered) >= MOST_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[client] = found
        return self._highest_of_many(hash64(client), avoided) if found in avoided else found

    def peek(self, client: str, now: float, avoided: Collection[Endpoint] = ()) -> tuple[Endpoint, str]:
        return self.choose(client, now, avoided), f"the hash of {client} and it is the highest"

    @property
    def turn(self) -> tuple[int, ...]:
        return ()

    def resume(self, turn: tuple[int, ...]) -> None:
        """It knows no turns."""

    def _highest(self, key: int, avoided: Collection[Endpoint]) -> Endpoint:
        scores = self._weighted(key) if self._weights else ((mixed(key ^ its), each) for each, its in self._keys)
        return max(pair for pair in scores if pair[1] not in avoided)[1]

    def _weighted(self, key: int) -> Iterator[tuple[float, Endpoint]]:
        """The scores by weight: a number between 0 and 1 is drawn for each, and its logarithm divided."""
        for (endpoint, its), weight in zip(self._keys, self._weights, strict=True):
            yield _score(mixed(key ^ its), weight), endpoint

    def _highest_of_many(self, key: int, avoided: Collection[Endpoint]) -> Endpoint:
        """The same: of endpoints that weigh alike the one with the highest number has the highest score."""
        if not self._groups:
            self._groups = _groups(self._keys, self._weights)
        found = (each.highest(key, avoided) for each in self._groups)
        return max((_score(number, weight), endpoint) for number, weight, endpoint in found if endpoint is not None)[1]


@lru_cache(maxsize=16_384)
def _key(endpoint: Endpoint) -> int:
    """What its scores are made of. It takes 2 us, and a change of one endpoint needs those of all."""
    return hash64(str(endpoint))


class _Group:
    """Endpoints that weigh alike."""

    def __init__(self, keys: Sequence[tuple[Endpoint, int]], weight: int) -> None:
        self._endpoints = tuple(endpoint for endpoint, _ in keys)
        self._lanes = MixedLanes([key for _, key in keys])
        self._weight = weight

    def highest(self, key: int, avoided: Collection[Endpoint]) -> tuple[int, int, Endpoint | None]:
        """The highest number, its weight and endpoint, which is None if all are avoided."""
        numbers = self._lanes.mixed(key)
        endpoints = self._endpoints
        if not avoided:
            most = max(numbers)
            return most, self._weight, endpoints[numbers.index(most)]
        left = ((number, each) for number, each in zip(numbers, endpoints, strict=True) if each not in avoided)
        number, endpoint = max(left, default=(0, None))
        return number, self._weight, endpoint


class _Motley:
    """Endpoints of many different weights."""

    def __init__(self, keys: Sequence[tuple[Endpoint, int]], weights: Sequence[int]) -> None:
        ranked = sorted(zip(weights, keys, strict=True))
        self._weights = tuple(weight for weight, _ in ranked)
        self._endpoints = tuple(endpoint for _, (endpoint, _) in ranked)
        self._lanes = MixedLanes([key for _, (_, key) in ranked])
        step = -(-len(ranked) // _PARTS)
        self._parts = [range(start, min(start + step, len(ranked))) for start in range(0, len(ranked), step)]

    def highest(self, key: int, avoided: Collection[Endpoint]) -> tuple[int, int, Endpoint | None]:
        """As that of a :class:`_Group`.

        A score is worked out only where it may be the highest: where the number is large enough for the heaviest to
        have as high a score as the highest that is known, which is that of some endpoint with the highest number of
        those that weigh about as much. That leaves a few of thousands.
        """
        numbers = self._lanes.mixed(key)
        known = max(self._score_of_best(numbers, part, avoided) for part in self._parts)
        least = (exp(-self._weights[-1] / known) - _MARGIN) * (1 << 64) if known else 0.0
        weights, endpoints = self._weights, self._endpoints
        left = [index for index, number in enumerate(numbers) if number >= least]
        scores = [
            (_score(numbers[index], weights[index]), endpoints[index], index)
            for index in left
            if endpoints[index] not in avoided
        ]
        _, endpoint, index = max(scores, default=(0.0, None, 0))
        return numbers[index], weights[index], endpoint

    def _score_of_best(self, numbers: Sequence[int], part: range, avoided: Collection[Endpoint]) -> float:
        its = numbers[part.start : part.stop]
        index = part.start + its.index(max(its))
        return 0.0 if self._endpoints[index] in avoided else _score(numbers[index], self._weights[index])


def _groups(keys: Sequence[tuple[Endpoint, int]], weights: Sequence[int]) -> Sequence[_Group | _Motley]:
    if len(set(weights)) > _MOST_WEIGHTS:
        return [_Motley(keys, weights)]
    by_weight: dict[int, list[tuple[Endpoint, int]]] = {}
    for pair, weight in zip(keys, weights or [1] * len(keys), strict=True):
        by_weight.setdefault(weight, []).append(pair)
    return [_Group(pairs, weight) for weight, pairs in by_weight.items()]


def _score(number: int, weight: int) -> float:
    part = ((number >> 12) + 0.5) / (1 << 52)  # one bit more, and the highest is rounded to 1
    return -weight / log(part)
