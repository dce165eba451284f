"""Whose lost datagrams are worth a decision: a flood of them must cost no more than a few."""

from typing import Final

SECONDS: Final = 1.0
"""So long nothing more is said of a client."""

MOST: Final = 16
"""Clients of one listener of whom something is said within that time; source addresses are easily forged."""


class Losses:
    """The clients of one listener of whose lost datagrams a decision has told within the last second."""

    __slots__ = ("_clients", "_until")

    def __init__(self) -> None:
        self._clients: set[bytes] = set()
        self._until = float("-inf")

    def is_full(self, now: float) -> bool:
        """Whether :meth:`take` is false of everybody."""
        return now < self._until and len(self._clients) >= MOST

    def take(self, client: bytes, now: float) -> bool:
        """Whether a decision is to tell of a datagram of `client` that is lost now. Then it is taken to do so."""
        if now >= self._until:
            self._clients.clear()
            self._until = now + SECONDS
        if len(self._clients) >= MOST or client in self._clients:
            return False
        self._clients.add(client)
        return True
