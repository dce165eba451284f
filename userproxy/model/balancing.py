"""How the endpoint for a new connection or flow is chosen, as annotations say it."""

from enum import StrEnum

from msgspec import Struct


class BalancerName(StrEnum):
    """The balancers that userproxy comes with."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    LEAST_CONNECTIONS = "least-connections"
    SOURCE_HASH = "source-hash"
    MAGLEV = "maglev"
    FIRST_AVAILABLE = "first-available"


class Ejection(Struct, frozen=True, gc=False):
    """When an endpoint gets no more new connections: after `failures` in a row, for `seconds`."""

    failures: int
    seconds: float
