"""What of a Service is wanted and not served, or endangered on this node."""

from enum import StrEnum

from msgspec import Struct

from userproxy.model.cluster import ServiceName


class ProblemKind(StrEnum):
    """What is wrong, as far as its cure depends on it."""

    PORT_CONFLICT = "port conflict"
    UNSUPPORTED_PROTOCOL = "unsupported protocol"
    BAD_ANNOTATION = "bad annotation"
    HEALTH_CHECK = "health check"
    PORTALS_REFUSED = "portals refused"
    OUT_OF_DESCRIPTORS = "out of descriptors"
    PORTALS_CONTESTED = "portals contested"
    CLIENT_ADDRESS_NOT_KEPT = "client address not kept"
    BALANCER_FAULTY = "balancer faulty"
    ENDPOINT_EJECTED = "endpoint ejected"
    DATA_PROCESS_ENDED = "data process ended"


class Problem(Struct, frozen=True, gc=False):
    """Something of a Service that is wanted and not served. `text` is one sentence for whoever owns it.

    `service` is None for what concerns all of them: the sentence is for whoever owns the node.
    `here` means that it is so on this node, and need not be on others.
    """

    service: ServiceName | None
    kind: ProblemKind
    text: str
    here: bool = False
