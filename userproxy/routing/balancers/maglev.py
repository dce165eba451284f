"""Maglev: a client's address decides by a table that is the same on every node, at the same cost for any number."""

from collections.abc import Collection, Generator, Iterator, Sequence
from heapq import heapify, heapreplace
from itertools import cycle, islice
from typing import Final, TypeAlias

from userproxy.model import Endpoint
from userproxy.routing.balancers.hashing import hash64
from userproxy.routing.balancers.interface import Pool

SIZES: Final = (4093, 16381)
"""Sizes of tables, which have to be prime. The larger one takes 10 ms to fill, and 50 with 5,000 endpoints."""

MOST_IN_SMALL_TABLE: Final = 128
"""Endpoints of the small table, where each has at least 31 entries; to go beyond moves most clients, once."""

_HASHES_IN_A_STEP: Final = 256
_ENTRIES_IN_A_STEP: Final = 512

Filling: TypeAlias = Generator[None, None, Sequence[Endpoint]]


class Maglev:
    """Maglev hashing (Eisenbud et al., NSDI 2016): endpoints take entries in turn, each in an order of its own.

    So each has as many entries as its weight says, give or take one, and one that leaves moves few clients of others.
    A small table is made when it is first asked for, a larger one as soon as there is time for it. One that takes the
    place of another is made then, too, and that other one serves meanwhile, unless most endpoints are not in it: these
    get nobody until then, which may be a while where many tables are made.
    """

    __slots__ = ("_filling", "_pairs", "_table", "_usable", "tabled")

    def __init__(self, pool: Pool) -> None:
        self._pairs = list(zip(pool.endpoints, pool.weights, strict=True))
        self._table: Sequence[Endpoint] = ()
        self.tabled: frozenset[Endpoint] = frozenset()
        """The endpoints that the table was made for."""
        self._usable: frozenset[Endpoint] | None = None
        """The endpoints, while the table is one of others; else None."""
        self._filling: Filling | None = None
        is_large, before = len(self._pairs) > MOST_IN_SMALL_TABLE, pool.previous
        if isinstance(before, Maglev) and before.table and pool.later is not None:
            usable = frozenset(pool.endpoints)
            if 2 * len(usable & before.tabled) >= len(usable):
                self._table, self.tabled, self._usable = before.table, before.tabled, usable
        if pool.later is not None and (is_large or self._table):
            pool.later(self._fill_some)

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

    def _begun(self) -> Filling:
        if self._filling is None:
            self._pairs.sort()
            self._filling = _filling(self._pairs, SIZES[len(self._pairs) > MOST_IN_SMALL_TABLE])
        return self._filling

    def _fill_some(self) -> bool:
        """Do a part of what is to be done for the table; whether more is left."""
        if self._table and self._usable is None:
            return False
        try:
            next(self._begun())
        except StopIteration as end:
            self._finish(end.value)
            return False
        return True

    def _fill(self) -> Sequence[Endpoint]:
        return self._finish(_finished(self._begun()))

    def _finish(self, table: Sequence[Endpoint]) -> Sequence[Endpoint]:
        self._table, self._usable, self._filling = table, None, None
        self.tabled = frozenset([endpoint for endpoint, _ in self._pairs])
        return table


def filled(pairs: Sequence[tuple[Endpoint, int]], size: int) -> Sequence[Endpoint]:
    """A table of `size` entries, a prime, for endpoints with weights."""
    return _finished(_filling(pairs, size))


def _finished(filling: Filling) -> Sequence[Endpoint]:
    while True:
        try:
            next(filling)
        except StopIteration as end:
            table: Sequence[Endpoint] = end.value
            return table


def _filling(pairs: Sequence[tuple[Endpoint, int]], size: int) -> Filling:
    """Fills a table, in steps of a millisecond or two.

    The heaviest takes an entry in each round, others whenever their weights have come to as much as its. Rounds in
    which they take none cost nothing: there may be a thousand for each in which they do.
    """
    table: list[Endpoint | None] = [None] * size
    places, skips = list[int](), list[int]()
    for number, (endpoint, _) in enumerate(pairs, 1):
        places.append(hash64(str(endpoint), b"offset") % size)
        skips.append(hash64(str(endpoint), b"skip") % (size - 1) + 1)
        if number % _HASHES_IN_A_STEP == 0:
            yield
    for entry, number in enumerate(islice(_turns([weight for _, weight in pairs]), size), 1):
        place, skip = places[number], skips[number]
        while table[place] is not None:
            place = (place + skip) % size
        table[place] = pairs[number][0]
        places[number] = place
        if entry % _ENTRIES_IN_A_STEP == 0:
            yield
    return [each for each in table if each is not None]


def _turns(weights: Sequence[int]) -> Iterator[int]:
    """The numbers of endpoints in the order in which they take entries, for ever."""
    heaviest = max(weights)
    if min(weights) == heaviest:
        yield from cycle(range(len(weights)))
    taken = [1] * len(weights)
    """Entries of each, its next one included."""
    turns = [(_round(1, heaviest, weight), number) for number, weight in enumerate(weights)]
    heapify(turns)
    while True:
        number = turns[0][1]
        yield number
        taken[number] += 1
        heapreplace(turns, (_round(taken[number], heaviest, weights[number]), number))


def _round(entry: int, heaviest: int, weight: int) -> int:
    """The round in which an endpoint takes an entry: by then its weights have come to as often the heaviest's."""
    return -(-entry * heaviest // weight)
