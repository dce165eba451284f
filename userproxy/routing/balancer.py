"""Who gets the next connection of a service port: shuffled round-robin, or the client's own endpoint."""

from collections.abc import Callable, Collection
from random import Random
from typing import Final

from msgspec import Struct

from userproxy.model import Endpoint, ListenerName, Snapshot
from userproxy.model.reports import Choice
from userproxy.routing.affinity import AffinityTable

SUSPECT_SECONDS: Final = 5.0
"""How long an endpoint that could not be reached is passed over while another one is left.

The original gives a dead endpoint its turn each time, so with one black hole of two every second client waits.
About as long as a cluster needs to take a dead Pod out of the slice; then one client tries it again.
"""

_NO_ENDPOINTS: Final[frozenset[Endpoint]] = frozenset()


class BalancerState(Struct, frozen=True, gc=False, array_like=True):
    """Whose turn it is, as a value: endpoints in their order, the number of the next one, and until when some are
    passed over. Times are of CLOCK_MONOTONIC."""

    endpoints: tuple[Endpoint, ...] = ()
    next: int = 0
    suspects: tuple[tuple[Endpoint, float], ...] = ()


class Balancer:
    """Chooses endpoints for one listener from its latest snapshot.

    `affinity_table` is called for the listener's table when a snapshot first asks for affinity: balancers that are
    to share their clients' affinity get the same one.
    """

    __slots__ = ("_affinity", "_affinity_table", "_endpoints", "_members", "_next", "_random", "_suspects")

    def __init__(
        self, random: Random, affinity_table: Callable[[ListenerName], AffinityTable] = lambda _: AffinityTable()
    ) -> None:
        self._random = random
        self._affinity_table = affinity_table
        self._affinity: AffinityTable | None = None
        self._endpoints: list[Endpoint] = []
        self._members: frozenset[Endpoint] = _NO_ENDPOINTS
        """The endpoints as the affinity table knows them, if there is one."""
        self._next = 0
        self._suspects: dict[Endpoint, float] = {}

    def state(self) -> BalancerState:
        """Whose turn it is, as a value."""
        return BalancerState(tuple(self._endpoints), self._next, tuple(self._suspects.items()))

    def restore(self, state: BalancerState) -> None:
        """Go on as the balancer of another process. A snapshot is to follow."""
        self._endpoints, self._next, self._suspects = list(state.endpoints), state.next, dict(state.suspects)

    def update(self, snapshot: Snapshot) -> None:
        """Follow a new snapshot.

        Only another *set* of endpoints shuffles anew: an unchanged one keeps its turn. Clients of
        endpoints that stay keep them, and an edited timeout counts from their last connection.
        """
        changed = set(snapshot.endpoints) != set(self._endpoints)
        if changed:
            self._endpoints = list(snapshot.endpoints)
            self._random.shuffle(self._endpoints)
            self._next = 0
            self._suspects.clear()
        if snapshot.affinity_timeout is None:
            self.leave_affinity()
            return
        if changed or self._affinity is None:
            self._members = frozenset(snapshot.endpoints)
        if self._affinity is None:
            self._affinity = self._affinity_table(snapshot.listener)
        self._affinity.follow(self, self._members, snapshot.affinity_timeout)

    def leave_affinity(self) -> None:
        """Take no more part in the affinity of its clients, until a snapshot asks for it."""
        if self._affinity is not None:
            self._affinity.leave(self)
            self._affinity = None
            self._members = _NO_ENDPOINTS

    def pick(self, client: str, now: float, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint for a new connection of `client`, or None if there is none.

        `tried` are the endpoints that this connection could not reach: it gets another one as long as
        there is another, and the client then sticks to that one. Suspects come last, unless the client
        sticks to one. `now` is seconds, monotonic.
        """
        affinity = self._affinity
        if affinity is None and not tried and not self._suspects:
            return self._next_in_turn()
        if affinity is not None and not tried:
            endpoint = affinity.lookup(client, now, self._members)
            if endpoint is not None:
                return endpoint
        endpoint = self._take_turn(self._avoided(tried, now))
        if affinity is not None and endpoint is not None:
            affinity.record(client, endpoint, now)
        return endpoint

    def peek(self, client: str, now: float, tried: Collection[Endpoint] = ()) -> Choice:
        """What :meth:`pick` would return now, and why. Changes nothing."""
        if self._affinity is not None and not tried:
            endpoint = self._affinity.peek(client, now, self._members)
            if endpoint is not None:
                return Choice(endpoint, "the client sticks to it")
        if not self._endpoints:
            return Choice(None, "there is no endpoint")
        suspects = {endpoint for endpoint, until in self._suspects.items() if until > now}
        avoided = suspects | set(tried)
        if avoided.issuperset(self._endpoints):
            avoided = set(tried)
        for step in range(len(self._endpoints)):
            endpoint = self._endpoints[(self._next + step) % len(self._endpoints)]
            if endpoint not in avoided:
                return Choice(endpoint, "it is its turn")
        return Choice(self._endpoints[self._next], "it is its turn, and all have been tried")

    def passed_over(self, endpoint: Endpoint, now: float) -> float:
        """For how many seconds others go before an endpoint, because it could not be reached; 0 if they do not."""
        return max(0.0, self._suspects.get(endpoint, now) - now)

    @property
    def affinity_entries(self) -> int:
        """Clients of the service port in this family who may stick to an endpoint, some of them no longer."""
        return 0 if self._affinity is None else len(self._affinity)

    def suspect(self, endpoint: Endpoint, now: float) -> None:
        """Pass over an endpoint that could not be reached, for SUSPECT_SECONDS."""
        self._suspects[endpoint] = now + SUSPECT_SECONDS

    def forget(self, client: str) -> None:
        """Let go of a client whose every dial failed: its next connection starts without a preference."""
        if self._affinity is not None:
            self._affinity.forget(client)

    def _avoided(self, tried: Collection[Endpoint], now: float) -> Collection[Endpoint]:
        """What to pass over: suspects, too, as long as that leaves an endpoint."""
        if not self._suspects:
            return tried
        self._suspects = {endpoint: until for endpoint, until in self._suspects.items() if until > now}
        avoided = self._suspects.keys() | set(tried)
        return tried if avoided.issuperset(self._endpoints) else avoided

    def _next_in_turn(self) -> Endpoint | None:
        endpoints = self._endpoints
        if not endpoints:
            return None
        turn = self._next
        self._next = (turn + 1) % len(endpoints)
        return endpoints[turn]

    def _take_turn(self, tried: Collection[Endpoint]) -> Endpoint | None:
        endpoints = self._endpoints
        count = len(endpoints)
        if not count:
            return None
        start = self._next
        for step in range(count if tried else 1):
            index = (start + step) % count
            if endpoints[index] not in tried:
                self._next = (index + 1) % count
                return endpoints[index]
        self._next = (start + 1) % count
        return endpoints[start]
