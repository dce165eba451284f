"""Maglev: a client's address decides by a table that is the same on every node, at the same cost for any number."""

from collections.abc import Collection, Sequence
from heapq import heapify, heapreplace
from typing import Final

from userproxy.model import Endpoint
from userproxy.routing.balancers.hashing import hash64
from userproxy.routing.balancers.interface import Pool

SIZES: Final = (4093, 16381)
"""Sizes of tables, which have to be prime. The larger one takes 10 ms to fill, in which nobody is served."""

MOST_IN_SMALL_TABLE: Final = 128
"""Endpoints of the small table, where each has at least 31 entries; to go beyond moves most clients, once."""


class Maglev:
    """Maglev hashing (Eisenbud et al., NSDI 2016): endpoints take entries in turn, each in an order of its own.

    So each has as many entries as its weight says, give or take one, and one that leaves moves few clients of others.
    The table is made when it is first asked for; where another one is in use, later, and that serves until then.
    """

    __slots__ = ("_pairs", "_table", "_usable")

    def __init__(self, pool: Pool) -> None:
        self._pairs = sorted(zip(pool.endpoints, pool.weights, strict=True))
        self._table: Sequence[Endpoint] = ()
        self._usable: frozenset[Endpoint] | None = None
        """The endpoints, while the table is one of others; else None."""
        before = pool.previous
        if pool.later is not None and isinstance(before, Maglev) and before.table:
            self._table, self._usable = before.table, frozenset(pool.endpoints)
            pool.later(self._fill)

    def choose(self, client: str, _now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        table = self._table or self._fill()
        place = hash64(client) % len(table)
        endpoint = table[place]
        if endpoint in avoided or (self._usable is not None and endpoint not in self._usable):
            return self._after(place, avoided)
        return endpoint

    def peek(self, client: str, now: float, avoided: Collection[Endpoint] = ()) -> tuple[Endpoint, str]:
        endpoint = self.choose(client, now, avoided)
        size = len(self._table)
        entry = f"entry {hash64(client) % size} of {size}, which is that of {client},"
        return endpoint, f"{entry} {'and those after it are passed over' if avoided else 'is its'}"

    @property
    def table(self) -> Sequence[Endpoint]:
        """What it chooses by; empty until it is first asked."""
        return self._table

    @property
    def turn(self) -> tuple[int, ...]:
        return ()

    def resume(self, turn: tuple[int, ...]) -> None:
        """It knows no turns."""

    def _after(self, place: int, avoided: Collection[Endpoint]) -> Endpoint:
        """The endpoint of the next entry: whose they are is by chance, so an endpoint's clients are spread."""
        table, usable = self._table, self._usable
        for step in range(1, len(table)):
            endpoint = table[(place + step) % len(table)]
            if endpoint not in avoided and (usable is None or endpoint in usable):
                return endpoint
        return next(endpoint for endpoint, _ in self._pairs if endpoint not in avoided)  # it has no entry

    def _fill(self) -> Sequence[Endpoint]:
        self._table = filled(self._pairs, SIZES[len(self._pairs) > MOST_IN_SMALL_TABLE])
        self._usable = None
        return self._table


def filled(pairs: Sequence[tuple[Endpoint, int]], size: int) -> Sequence[Endpoint]:
    """A table of `size` entries, a prime, for endpoints with weights.

    The heaviest takes an entry in each round, others whenever their weights have come to as much as its. Rounds in
    which they take none cost nothing: there may be a thousand for each in which they do.
    """
    heaviest = max(weight for _, weight in pairs)
    table: list[Endpoint | None] = [None] * size
    places = [hash64(str(endpoint), b"offset") % size for endpoint, _ in pairs]
    skips = [hash64(str(endpoint), b"skip") % (size - 1) + 1 for endpoint, _ in pairs]
    taken = [1] * len(pairs)
    """Entries of each, its next one included."""
    turns = [(_round(1, heaviest, weight), number) for number, (_, weight) in enumerate(pairs)]
    heapify(turns)
    for _ in range(size):
        _, number = turns[0]
        endpoint, weight = pairs[number]
        place, skip = places[number], skips[number]
        while table[place] is not None:
            place = (place + skip) % size
        table[place] = endpoint
        places[number] = place
        taken[number] += 1
        heapreplace(turns, (_round(taken[number], heaviest, weight), number))
    return [each for each in table if each is not None]


def _round(entry: int, heaviest: int, weight: int) -> int:
    """The round in which an endpoint takes an entry: by then its weights have come to as often the heaviest's."""
    return -(-entry * heaviest // weight)
