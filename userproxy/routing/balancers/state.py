"""What a balancer of another process has to know to go on as the one before."""

from typing import Final

from msgspec import Struct

from userproxy.model import BalancerName, Endpoint
from userproxy.routing.balancers.ejections import Ejected


class BalancerState(Struct, frozen=True, gc=False, array_like=True):
    """Whose turn it is, as a value: endpoints in their order with their weights, none if they are all alike, where
    their balancer is in that order, until when some are passed over, and which are ejected, with how many have been so
    far. Times are of CLOCK_MONOTONIC."""

    endpoints: tuple[Endpoint, ...] = ()
    weights: tuple[int, ...] = ()
    name: str = BalancerName.ROUND_ROBIN
    turn: tuple[int, ...] = ()
    suspects: tuple[tuple[Endpoint, float], ...] = ()
    ejected: tuple[Ejected, ...] = ()
    ejections: int = 0


NO_STATE: Final = BalancerState()
"""That of who has no balancer: a control process, or a closed listener. Who gets it keeps what it has."""
