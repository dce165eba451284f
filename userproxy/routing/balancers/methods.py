"""The table of balancers by name, and what stands where there is no endpoint."""

from collections.abc import Mapping
from typing import Final

from userproxy.model import BalancerName
from userproxy.routing.balancers.first_available import FirstAvailable
from userproxy.routing.balancers.interface import MakeMethod
from userproxy.routing.balancers.least_connections import least_connections
from userproxy.routing.balancers.maglev import Maglev
from userproxy.routing.balancers.random_choice import RandomChoice
from userproxy.routing.balancers.round_robin import round_robin
from userproxy.routing.balancers.source_hash import SourceHash

METHODS: Final[Mapping[str, MakeMethod]] = {
    BalancerName.ROUND_ROBIN: round_robin,
    BalancerName.RANDOM: RandomChoice,
    BalancerName.LEAST_CONNECTIONS: least_connections,
    BalancerName.SOURCE_HASH: SourceHash,
    BalancerName.MAGLEV: Maglev,
    BalancerName.FIRST_AVAILABLE: FirstAvailable,
}
