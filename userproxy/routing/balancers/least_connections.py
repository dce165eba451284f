"""Least connections: whoever has fewest connections or flows for its weight."""

from collections import deque
from collections.abc import Collection
from heapq import heapify, heappop, heappush
from typing import Final

from userproxy.model import Endpoint
from userproxy.routing.balancers.interface import Method, Pool

PENDING_SECONDS: Final = 2.5
"""For how long a choice counts that has not become a connection: a dial is given up after 2 s."""

MANY: Final = 128
"""With more endpoints not each of them is looked at for each connection, but so many, in turn."""


class LeastConnections:
    """The endpoint with the fewest connections, those included that are being made; of several, each in its turn.

    Connections are those of one listener in this process. A choice counts from the beginning: else all clients who
    come while a dial takes time would get the same endpoint. It becomes a connection when the endpoint has accepted
    one more; one that fails is forgotten after PENDING_SECONDS, until when the endpoint is passed over anyway.
    """

    __slots__ = ("_endpoints", "_loads", "_next", "_pending", "_weights")

    def __init__(self, pool: Pool) -> None:
        self._endpoints = tuple(pool.endpoints)
        self._weights = tuple(pool.weights)
        self._loads = pool.loads
        self._pending: dict[Endpoint, deque[tuple[int, float]]] = {}
        """Choices by endpoint: how many it has accepted once this one has come to it, and until when it counts."""
        self._next = 0

    def choose(self, _client: str, now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        number, _ = self._least(now, avoided)
        self._next = (number + 1) % len(self._endpoints)
        return self._begun(number, now)

    def _begun(self, number: int, now: float) -> Endpoint:
        """The endpoint of this number, which has one more from now on."""
        endpoint = self._endpoints[number]
        pending = self._pending.setdefault(endpoint, deque())
        load = self._loads.get(endpoint)
        accepted = 0 if load is None else load.total
        pending.append((accepted + len(pending) + 1, now + PENDING_SECONDS))
        return endpoint

    def peek(self, _client: str, now: float, avoided: Collection[Endpoint] = ()) -> tuple[Endpoint, str]:
        number, least = self._least(now, avoided)
        for_weight = f" for its weight of {self._weights[number]}" if len(set(self._weights)) > 1 else ""
        return self._endpoints[number], f"it has the fewest connections, {least}{for_weight}"

    @property
    def turn(self) -> tuple[int, ...]:
        return (self._next,)

    def resume(self, turn: tuple[int, ...]) -> None:
        if len(turn) == 1:
            self._next = turn[0] % len(self._endpoints)

    def _least(self, now: float, avoided: Collection[Endpoint]) -> tuple[int, int]:
        """The number of the endpoint that is next, and its connections."""
        endpoints, weights, first = self._endpoints, self._weights, self._next
        found, found_load, least = -1, 0, float("inf")
        for number in (*range(first, len(endpoints)), *range(first)):
            endpoint = endpoints[number]
            if endpoint in avoided:
                continue
            load = self._load(endpoint, now)
            share = (load + 1) / weights[number]
            if share < least:
                found, found_load, least = number, load, share
        return found, found_load

    def _load(self, endpoint: Endpoint, now: float) -> int:
        load, pending = self._loads.get(endpoint), self._pending.get(endpoint)
        active = 0 if load is None else load.active
        if not pending:
            return active
        accepted = 0 if load is None else load.total
        while pending and (pending[0][0] <= accepted or pending[0][1] <= now):
            pending.popleft()
        return active + len(pending)


class LeastOfMany(LeastConnections):
    """The same for many endpoints, at the same cost for any number.

    It remembers what each had to do, and looks at MANY of them after each connection. So one that has got more is never
    taken for one with few, and one that has got rid of some is noticed within a number / MANY connections.
    """

    __slots__ = ("_known", "_latest", "_looked", "_queue", "_turns")

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._turns = list(range(len(self._endpoints)))
        """When each was chosen last: of several with as few it is the turn of the one for which that is longest ago."""
        self._latest = len(self._endpoints)
        self._known: list[float] = []
        """What each had to do, one more included, for its weight."""
        self._queue: list[tuple[float, int, int]] = []
        """By what is known, with turns and numbers. What is not so any more is left in it for a while."""
        self._looked = 0

    def choose(self, _client: str, now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        number, _ = self._least(now, avoided)
        self._turns[number] = self._latest = self._latest + 1
        endpoint = self._begun(number, now)
        self._note(number, self._share(number, now)[0])
        self._look(now)
        return endpoint

    def _least(self, now: float, avoided: Collection[Endpoint]) -> tuple[int, int]:
        queue, known, turns = self._queue or self._filled(now), self._known, self._turns
        aside = []
        while True:
            share, turn, number = queue[0]
            found, load = self._share(number, now)
            if share != known[number] or turn != turns[number]:
                heappop(queue)
            elif share != found:
                heappop(queue)
                self._note(number, found)
            elif self._endpoints[number] in avoided:
                aside.append(heappop(queue))
            else:
                break
        for each in aside:
            heappush(queue, each)
        return number, load

    def _look(self, now: float) -> None:
        """See what those have to do whose turn it is to be looked at."""
        known, count = self._known, len(self._endpoints)
        for each in range(self._looked, self._looked + MANY):
            number = each % count
            share = self._share(number, now)[0]
            if share != known[number]:
                self._note(number, share)
        self._looked = (self._looked + MANY) % count
        if len(self._queue) > 4 * count:
            self._filled(now)

    def _note(self, number: int, share: float) -> None:
        self._known[number] = share
        heappush(self._queue, (share, self._turns[number], number))

    def _filled(self, now: float) -> list[tuple[float, int, int]]:
        """The queue, made anew."""
        numbers = range(len(self._endpoints))
        self._known = [self._share(number, now)[0] for number in numbers]
        self._queue = list(zip(self._known, self._turns, numbers, strict=True))
        heapify(self._queue)
        return self._queue

    def _share(self, number: int, now: float) -> tuple[float, int]:
        """What an endpoint has to do, one more included, for its weight; and how many connections that are."""
        load = self._load(self._endpoints[number], now)
        return (load + 1) / self._weights[number], load


def least_connections(pool: Pool) -> Method:
    """Look at all endpoints for each connection, unless there are too many."""
    return LeastOfMany(pool) if len(pool.endpoints) > MANY else LeastConnections(pool)
