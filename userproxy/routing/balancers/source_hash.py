"""Source hash: a client's address decides, and an endpoint that leaves moves only its own clients."""

from collections.abc import Collection, Iterator
from math import log

from userproxy.model import Endpoint
from userproxy.routing.balancers.hashing import hash64, mixed
from userproxy.routing.balancers.interface import Pool


class SourceHash:
    """Rendezvous hashing (Thaler and Ravishankar, 1996): the endpoint with the highest score for the client's address.

    The scores of an endpoint depend on no other one, so those who come or go move only their own clients, and who
    cannot reach the first tries the one that would be first without it. Weights are Schindelhauer and Schomaker's
    (2005): a weight that changes moves clients only to or from its endpoint.
    """

    __slots__ = ("_keys", "_weights")

    def __init__(self, pool: Pool) -> None:
        pairs = sorted(zip(pool.endpoints, pool.weights, strict=True))
        self._keys = tuple((endpoint, hash64(str(endpoint))) for endpoint, _ in pairs)
        self._weights = () if pool.is_even else tuple(weight for _, weight in pairs)

    def choose(self, client: str, _now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        key = hash64(client)
        scores = self._weighted(key) if self._weights else ((mixed(key ^ its), each) for each, its in self._keys)
        return max(pair for pair in scores if pair[1] not in avoided)[1]

    def peek(self, client: str, now: float, avoided: Collection[Endpoint] = ()) -> tuple[Endpoint, str]:
        return self.choose(client, now, avoided), f"the hash of {client} and it is the highest"

    @property
    def turn(self) -> tuple[int, ...]:
        return ()

    def resume(self, turn: tuple[int, ...]) -> None:
        """It knows no turns."""

    def _weighted(self, key: int) -> Iterator[tuple[float, Endpoint]]:
        """The scores by weight: a number between 0 and 1 is drawn for each, and its logarithm divided."""
        for (endpoint, its), weight in zip(self._keys, self._weights, strict=True):
            part = ((mixed(key ^ its) >> 12) + 0.5) / (1 << 52)  # one bit more, and the highest is rounded to 1
            yield -weight / log(part), endpoint
