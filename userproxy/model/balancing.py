"""How the endpoint for a new connection or flow is chosen: the names of balancers, as annotations have them."""

from enum import StrEnum


class BalancerName(StrEnum):
    """The balancers that userproxy comes with."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    LEAST_CONNECTIONS = "least-connections"
    SOURCE_HASH = "source-hash"
    MAGLEV = "maglev"
    FIRST_AVAILABLE = "first-available"
