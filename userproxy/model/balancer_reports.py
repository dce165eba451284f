"""What the balancers of the data plane say of themselves."""

from msgspec import Struct

from userproxy.model.snapshots import Endpoint, ListenerName


class EjectedEndpoint(Struct, frozen=True, order=True, gc=False):
    """An endpoint that a listener gives no new connections, since `since`, Unix time. `reason` is a clause."""

    listener: ListenerName
    endpoint: Endpoint
    since: float
    reason: str


class BalancerFault(Struct, frozen=True, order=True, gc=False):
    """The balancer that a listener's Service asks for is not used, and round-robin is. `reason` is a clause."""

    listener: ListenerName
    balancer: str
    reason: str
