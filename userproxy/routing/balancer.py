"""Who gets the next connection of a service port: the client's own endpoint, or the one that a balancer chooses."""

from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Final

from msgspec import Struct

from userproxy.model import BalancerName, Endpoint, ListenerName, Snapshot
from userproxy.model.reports import Choice
from userproxy.routing.affinity import AffinityTable
from userproxy.routing.balancers.interface import Loads, Method, Pool
from userproxy.routing.balancers.methods import METHODS

SUSPECT_SECONDS: Final = 5.0
"""How long an endpoint that could not be reached is passed over while another one is left.

The original gives a dead endpoint its turn each time, so with one black hole of two every second client waits.
About as long as a cluster needs to take a dead Pod out of the slice; then one client tries it again.
"""

_NO_ENDPOINTS: Final[frozenset[Endpoint]] = frozenset()
_NO_WEIGHTS: Final[Mapping[Endpoint, int]] = {}
_NO_LOADS: Final[Loads] = {}


class BalancerState(Struct, frozen=True, gc=False, array_like=True):
    """Whose turn it is, as a value: endpoints in their order with their weights, none if they are all alike, where
    their balancer is in that order, and until when some are passed over. Times are of CLOCK_MONOTONIC."""

    endpoints: tuple[Endpoint, ...] = ()
    weights: tuple[int, ...] = ()
    name: str = BalancerName.ROUND_ROBIN
    turn: tuple[int, ...] = ()
    suspects: tuple[tuple[Endpoint, float], ...] = ()


class Balancer:
    """Chooses endpoints for one listener from its latest snapshot.

    `affinity_table` is called for the listener's table when a snapshot first asks for affinity: balancers that are
    to share their clients' affinity get the same one.
    """

    __slots__ = (
        "_affinity",
        "_affinity_table",
        "_choose",
        "_endpoints",
        "_loads",
        "_members",
        "_method",
        "_name",
        "_random",
        "_suspects",
        "_usable",
        "_weights",
    )

    def __init__(
        self, random: Random, affinity_table: Callable[[ListenerName], AffinityTable] = lambda _: AffinityTable()
    ) -> None:
        self._random = random
        self._affinity_table = affinity_table
        self._affinity: AffinityTable | None = None
        self._endpoints: list[Endpoint] = []
        self._weights = _NO_WEIGHTS
        self._usable: list[Endpoint] = []
        """The endpoints that get new connections: those with a weight, or all if none has one."""
        self._members: frozenset[Endpoint] = _NO_ENDPOINTS
        """The same as the affinity table knows them, if there is one."""
        self._name: str = BalancerName.ROUND_ROBIN
        self._loads = _NO_LOADS
        self._method: Method | None = None
        self._choose: Callable[[str, float], Endpoint | None] = _nobody
        self._suspects: dict[Endpoint, float] = {}

    def state(self) -> BalancerState:
        """Whose turn it is, as a value."""
        weights = tuple(self._weights[endpoint] for endpoint in self._endpoints) if self._weights else ()
        turn = () if self._method is None else self._method.turn
        return BalancerState(tuple(self._endpoints), weights, self._name, turn, tuple(self._suspects.items()))

    def restore(self, state: BalancerState) -> None:
        """Go on as the balancer of another process. A snapshot is to follow."""
        self._endpoints, self._name = list(state.endpoints), state.name
        self._weights = dict(zip(state.endpoints, state.weights, strict=True)) if state.weights else _NO_WEIGHTS
        self._suspects = dict(state.suspects)
        self._renew()
        if self._method is not None:
            self._method.resume(state.turn)

    def watch(self, loads: Loads) -> None:
        """Take what endpoints have to do from `loads`, which is as it is by then."""
        if loads is not self._loads:
            turn = () if self._method is None else self._method.turn
            self._loads = loads
            self._renew()
            if self._method is not None:
                self._method.resume(turn)

    def update(self, snapshot: Snapshot) -> None:
        """Follow a new snapshot.

        Only another *set* of endpoints shuffles anew: an unchanged one keeps its turn. Clients of
        endpoints that stay keep them, and an edited timeout counts from their last connection.
        """
        changed = set(snapshot.endpoints) != set(self._endpoints)
        if changed:
            self._endpoints = list(snapshot.endpoints)
            self._random.shuffle(self._endpoints)
            self._suspects.clear()
        weights = dict(zip(snapshot.endpoints, snapshot.weights, strict=True)) if snapshot.weights else _NO_WEIGHTS
        if changed or weights != self._weights or snapshot.balancer != self._name:
            self._weights, self._name = weights, snapshot.balancer
            self._renew()
            changed = True
        if snapshot.affinity_timeout is None:
            self.leave_affinity()
            return
        if changed or self._affinity is None:
            self._members = frozenset(self._usable)
        if self._affinity is None:
            self._affinity = self._affinity_table(snapshot.listener)
        self._affinity.follow(self, self._members, snapshot.affinity_timeout)

    def _renew(self) -> None:
        """Make another balancer, for the endpoints as they are now."""
        weights = self._weights
        self._usable = [endpoint for endpoint in self._endpoints if weights.get(endpoint, 1)] or self._endpoints
        if not self._usable:
            self._method, self._choose = None, _nobody
            return
        of_usable = [weights.get(endpoint, 1) or 1 for endpoint in self._usable]
        self._method = METHODS[self._name](Pool(self._usable, of_usable, self._random, self._loads))
        self._choose = self._method.choose

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
            return self._choose(client, now)
        if affinity is not None and not tried:
            endpoint = affinity.lookup(client, now, self._members)
            if endpoint is not None:
                return endpoint
        method = self._method
        endpoint = None if method is None else method.choose(client, now, self._avoided(tried, now))
        if affinity is not None and endpoint is not None:
            affinity.record(client, endpoint, now)
        return endpoint

    def peek(self, client: str, now: float, tried: Collection[Endpoint] = ()) -> Choice:
        """What :meth:`pick` would return now, and why. Changes nothing."""
        if self._affinity is not None and not tried:
            endpoint = self._affinity.peek(client, now, self._members)
            if endpoint is not None:
                return Choice(endpoint, "the client sticks to it")
        if self._method is None:
            return Choice(None, "there is no endpoint")
        suspects = {endpoint for endpoint, until in self._suspects.items() if until > now}
        avoided, all_tried = self._least_avoided(suspects, tried)
        endpoint, reason = self._method.peek(client, now, avoided)
        return Choice(endpoint, f"{reason}, and all have been tried" if all_tried else reason)

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
        if self._suspects:
            self._suspects = {endpoint: until for endpoint, until in self._suspects.items() if until > now}
        return self._least_avoided(self._suspects.keys(), tried)[0]

    def _least_avoided(
        self, suspects: Collection[Endpoint], tried: Collection[Endpoint]
    ) -> tuple[Collection[Endpoint], bool]:
        """What to pass over of these so that an endpoint is left, and whether all have been tried."""
        if suspects:
            avoided = {*suspects, *tried}
            if not avoided.issuperset(self._usable):
                return avoided, False
        if len(tried) >= len(self._usable) and set(tried).issuperset(self._usable):
            return (), True
        return tried, False


def _nobody(_client: str, _now: float) -> None:
    """Nobody gets a connection where there is no endpoint."""
