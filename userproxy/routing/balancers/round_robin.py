"""Round-robin: each endpoint in its turn, as often as its weight says."""

import heapq
from collections.abc import Collection
from typing import Final

from userproxy.model import Endpoint
from userproxy.routing.balancers.interface import Method, Pool

_REASON: Final = "it is its turn"

_STRIDE: Final = 1 << 40
"""What is divided by weights, so that turns are whole numbers: the error is beyond a billionth for all weights."""


class RoundRobin:
    """The endpoints in turn, in the order of the pool."""

    __slots__ = ("_count", "_endpoints", "_next")

    def __init__(self, pool: Pool) -> None:
        self._endpoints = tuple(pool.endpoints)
        self._count = len(self._endpoints)
        self._next = 0

    def choose(self, _client: str, _now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        turn = self._turn(avoided) if avoided else self._next
        self._next = (turn + 1) % self._count
        return self._endpoints[turn]

    def peek(self, _client: str, _now: float, avoided: Collection[Endpoint] = ()) -> tuple[Endpoint, str]:
        return self._endpoints[self._turn(avoided)], _REASON

    @property
    def turn(self) -> tuple[int, ...]:
        return (self._next,)

    def resume(self, turn: tuple[int, ...]) -> None:
        if len(turn) == 1:
            self._next = turn[0] % len(self._endpoints)

    def _turn(self, avoided: Collection[Endpoint]) -> int:
        endpoints, turn = self._endpoints, self._next
        while endpoints[turn] in avoided:
            turn = (turn + 1) % len(endpoints)
        return turn


class WeightedRoundRobin:
    """The endpoints in turn, one of weight 3 three times as often as one of weight 1, and spread over the time.

    Each has a deadline, which moves on by a stride when it is chosen; the first one is next (stride scheduling). So
    of as many connections as there are weights in all, each gets exactly its own. One that is passed over for a while
    does not make up for it afterwards.
    """

    __slots__ = ("_endpoints", "_queue", "_strides")

    def __init__(self, pool: Pool) -> None:
        self._endpoints = tuple(pool.endpoints)
        self._strides = tuple(_STRIDE // weight for weight in pool.weights)
        self._queue = [(stride, number) for number, stride in enumerate(self._strides)]
        heapq.heapify(self._queue)

    def choose(self, _client: str, _now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        deadline, number = heapq.heappop(self._queue)
        passed_over = []
        while self._endpoints[number] in avoided:
            passed_over.append(number)
            deadline, number = heapq.heappop(self._queue)
        heapq.heappush(self._queue, (deadline + self._strides[number], number))
        for other in passed_over:
            heapq.heappush(self._queue, (deadline + 1, other))  # its turn is due, but not more than one of it
        return self._endpoints[number]

    def peek(self, _client: str, _now: float, avoided: Collection[Endpoint] = ()) -> tuple[Endpoint, str]:
        _, number = min(each for each in self._queue if self._endpoints[each[1]] not in avoided)
        return self._endpoints[number], f"{_REASON}, by its weight"

    @property
    def turn(self) -> tuple[int, ...]:
        """By how much deadlines are later than the first: they themselves outgrow 64 bits after 2**24 connections."""
        deadlines = {number: deadline - self._queue[0][0] for deadline, number in self._queue}
        return tuple(deadlines[number] for number in range(len(self._endpoints)))

    def resume(self, turn: tuple[int, ...]) -> None:
        if len(turn) == len(self._endpoints):
            self._queue = [(deadline, number) for number, deadline in enumerate(turn)]
            heapq.heapify(self._queue)


def round_robin(pool: Pool) -> Method:
    """In an order of its own, so that not all nodes begin with the same endpoint; the pool has been shuffled."""
    return RoundRobin(pool) if pool.is_even else WeightedRoundRobin(pool)
