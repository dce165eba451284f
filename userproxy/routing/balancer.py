"""Who gets the next connection of a service port: shuffled round-robin, or the client's own endpoint."""

from collections.abc import Collection
from random import Random
from typing import Final

from userproxy.model import Endpoint, Snapshot
from userproxy.routing.affinity import AffinityTable

SUSPECT_SECONDS: Final = 5.0
"""How long an endpoint that could not be reached is passed over while another one is left.

The original gives a dead endpoint its turn each time, so with one black hole of two every second client waits.
About as long as a cluster needs to take a dead Pod out of the slice; then one client tries it again.
"""


class Balancer:
    """Chooses endpoints for one service port from its latest snapshot."""

    __slots__ = ("_affinity", "_endpoints", "_next", "_random", "_suspects")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._endpoints: list[Endpoint] = []
        self._next = 0
        self._affinity: AffinityTable | None = None
        self._suspects: dict[Endpoint, float] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Follow a new snapshot.

        Only another *set* of endpoints shuffles anew: an unchanged one keeps its turn. Clients of
        endpoints that stay keep them, and an edited timeout counts from their last connection.
        """
        if set(snapshot.endpoints) != set(self._endpoints):
            self._endpoints = list(snapshot.endpoints)
            self._random.shuffle(self._endpoints)
            self._next = 0
            self._suspects.clear()
            if self._affinity is not None:
                self._affinity.retain(set(self._endpoints))
        if snapshot.affinity_timeout is None:
            self._affinity = None
        elif self._affinity is None:
            self._affinity = AffinityTable(snapshot.affinity_timeout)
        else:
            self._affinity.timeout = snapshot.affinity_timeout

    def pick(self, client: str, now: float, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint for a new connection of `client`, or None if there is none.

        `tried` are the endpoints that this connection could not reach: it gets another one as long as
        there is another, and the client then sticks to that one. Suspects come last, unless the client
        sticks to one. `now` is seconds, monotonic.
        """
        affinity = self._affinity
        if affinity is not None and not tried:
            endpoint = affinity.lookup(client, now)
            if endpoint is not None:
                return endpoint
        endpoint = self._take_turn(self._avoided(tried, now))
        if affinity is not None and endpoint is not None:
            affinity.record(client, endpoint, now)
        return endpoint

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
        return avoided if len(avoided) < len(self._endpoints) else tried

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
