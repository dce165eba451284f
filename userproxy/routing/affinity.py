"""ClientIP session affinity: which endpoint a client stuck to, and for how much longer."""

from collections import OrderedDict
from collections.abc import Container

from userproxy.model import Endpoint

_EXPIRED_PER_RECORD = 2
"""Old entries dropped per new one: more than one, so that the table shrinks to what is alive at O(1) each."""


class AffinityTable:
    """Clients of one service port in the order of their last connection.

    All share one timeout, so that order is also the order in which they expire: the oldest is in front,
    and nothing ever scans the whole table for the time. `now` is seconds of any monotonic clock.
    """

    __slots__ = ("_clients", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._clients: OrderedDict[str, tuple[Endpoint, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def lookup(self, client: str, now: float) -> Endpoint | None:
        """The endpoint that `client` still sticks to, or None; finding one starts its time afresh."""
        entry = self._clients.get(client)
        if entry is None or now - entry[1] >= self.timeout:
            return None
        self.record(client, entry[0], now)
        return entry[0]

    def record(self, client: str, endpoint: Endpoint, now: float) -> None:
        self._clients[client] = (endpoint, now)
        self._clients.move_to_end(client)
        for _ in range(_EXPIRED_PER_RECORD):
            oldest = next(iter(self._clients))
            if now - self._clients[oldest][1] < self.timeout:
                return
            del self._clients[oldest]

    def forget(self, client: str) -> None:
        self._clients.pop(client, None)

    def retain(self, endpoints: Container[Endpoint]) -> None:
        """Forget every client of an endpoint that is not among `endpoints`."""
        gone = [client for client, (endpoint, _) in self._clients.items() if endpoint not in endpoints]
        for client in gone:
            del self._clients[client]
