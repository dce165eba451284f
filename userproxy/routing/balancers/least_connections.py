"""Least connections: whoever has fewest connections or flows for its weight."""

from collections import deque
from collections.abc import Collection
from typing import Final

from userproxy.model import Endpoint
from userproxy.routing.balancers.interface import Pool

PENDING_SECONDS: Final = 2.5
"""For how long a choice counts that has not become a connection: a dial is given up after 2 s."""


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
        endpoint = self._endpoints[number]
        self._next = (number + 1) % len(self._endpoints)
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
