"""First available: everybody gets the first endpoint, and another one only while that cannot be reached."""

from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address

from userproxy.model import Endpoint
from userproxy.routing.balancers.interface import Pool


class FirstAvailable:
    """The endpoint with the highest weight; of those that are alike, the one with the lowest address and port."""

    __slots__ = ("_endpoints",)

    def __init__(self, pool: Pool) -> None:
        pairs = zip(pool.endpoints, pool.weights, strict=True)
        ranked = sorted(pairs, key=lambda pair: (-pair[1], _number(pair[0].ip), pair[0].port))
        self._endpoints = tuple(endpoint for endpoint, _ in ranked)

    def choose(self, _client: str, _now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        return next(endpoint for endpoint in self._endpoints if endpoint not in avoided)

    def peek(self, client: str, now: float, avoided: Collection[Endpoint] = ()) -> tuple[Endpoint, str]:
        return self.choose(client, now, avoided), "it is the first that is available"

    @property
    def turn(self) -> tuple[int, ...]:
        return ()

    def resume(self, turn: tuple[int, ...]) -> None:
        """It knows no turns."""


@lru_cache(maxsize=16_384)
def _number(ip: str) -> int:
    """An address as a number. It takes 8 us, and a change of one endpoint needs those of all."""
    return int(ip_address(ip))
