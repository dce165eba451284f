"""All that the data plane knows of a service port: which traffic it takes, and to which endpoints.

A snapshot is immutable, and the only thing that the two halves of the program exchange about routes.
"""

from enum import StrEnum

from msgspec import Struct

from userproxy.addresses import IPFamily, host_and_port
from userproxy.model.balancing import BalancerName, Ejection
from userproxy.model.client_address import ClientAddress, ProxyProtocol
from userproxy.model.cluster import Protocol, ServicePortName
from userproxy.model.limits import Limits


class TrafficClass(StrEnum):
    """Whose traffic a listener takes. Where policies do not tell them apart, INTERNAL has all of it.

    INTERNAL goes to cluster IPs. EXTERNAL goes to external portals (external IP, load-balancer IP, node port), and
    ON_NODE does so from this node's own Pods and processes, which no ``externalTrafficPolicy`` restricts.
    """

    INTERNAL = "internal"
    EXTERNAL = "external"
    ON_NODE = "on-node"


class Verdict(StrEnum):
    """What becomes of a new connection or flow.

    REJECT: refused at once, for nobody in the cluster could serve it. DROP: unanswered, for only a ``Local`` policy
    keeps it from those who could.
    """

    SERVE = "serve"
    REJECT = "reject"
    DROP = "drop"


class Endpoint(Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """One backend address of a service port."""

    ip: str
    port: int

    def __str__(self) -> str:
        return host_and_port(self.ip, self.port)


class ListenerName(Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """What makes a listener: a service port, an address family, and the traffic that it takes."""

    service_port: ServicePortName
    family: IPFamily = IPFamily.IPV4
    traffic: TrafficClass = TrafficClass.INTERNAL

    def __str__(self) -> str:
        marks: list[str] = [self.family] if self.family is not IPFamily.IPV4 else []
        marks += [self.traffic] if self.traffic is not TrafficClass.INTERNAL else []
        return f"{self.service_port} ({', '.join(marks)})" if marks else str(self.service_port)


class BalancerAccess(Struct, frozen=True, gc=False):
    """Who may use a Service's load balancer (``loadBalancerSourceRanges``): clients in `networks`.

    `ips` are its addresses. A family that no network is of is open to everybody. Both have either family.
    """

    ips: tuple[str, ...]
    networks: tuple[str, ...]


class PortalAddress(Struct, frozen=True, order=True, gc=False):
    """One address of a portal: the ``local`` driver listens there itself."""

    ip: str
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        return f"{host_and_port(self.ip, self.port)}/{self.protocol}"


class Snapshot(Struct, frozen=True, gc=False):
    """All that forwarding knows of a listener's traffic: whom to dial, and for how long clients stick.

    ``affinity_timeout`` is seconds since a client's last connection, or None without affinity; listeners of one
    service port and family share their clients' affinity. Connections to endpoints that are not among ``known`` are
    closed; None leaves all alone. ``udp_timeout`` is seconds, or None for the process's own. ``client_address`` is
    whose address endpoints see; unless that is NODE, ``nodes`` has the name of each endpoint's node, empty where it is
    not known. ``sends_proxy`` is the PROXY header that endpoints get before the first byte, ``accepts_proxy`` the one
    that trusted clients send; ``balancer_access`` is for those whose addresses come from such a header, None for
    everybody. ``portal`` is what clients of a UDP listener wrote to, where only one portal leads there. ``draining``
    are endpoints that get no new clients, and whose UDP flows stay; they are not among ``endpoints``.
    ``balancer`` is the name of what chooses among the endpoints, and ``weights`` has a weight for each of them, or
    nothing where they are all alike; one of weight 0 gets no new connection, unless all have it.
    ``ejection`` is when endpoints get no new connections because they fail, None to pass over them for five seconds.
    ``limits`` are those of the service port, which its listeners have in common; None for none. ``hold`` is for how
    many seconds clients are held because there is no endpoint; None where there is one, or they are refused.
    """

    listener: ListenerName
    verdict: Verdict = Verdict.SERVE
    endpoints: tuple[Endpoint, ...] = ()
    affinity_timeout: int | None = None
    known: tuple[Endpoint, ...] | None = None
    udp_timeout: float | None = None
    client_address: ClientAddress = ClientAddress.NODE
    nodes: tuple[str, ...] = ()
    sends_proxy: ProxyProtocol | None = None
    accepts_proxy: ProxyProtocol | None = None
    balancer_access: BalancerAccess | None = None
    portal: PortalAddress | None = None
    draining: tuple[Endpoint, ...] = ()
    balancer: str = BalancerName.ROUND_ROBIN
    weights: tuple[int, ...] = ()
    ejection: Ejection | None = None
    limits: Limits | None = None
    hold: float | None = None


class AdmissionRule(Struct, frozen=True, gc=False):
    """Whom clients from `network`, everybody if it is empty, are handed to; None leaves them without an answer."""

    network: str
    listener: ListenerName | None


class Admission(Struct, frozen=True, gc=False):
    """Which clients of a portal's address are let in, and by which listener's routes they are served.

    The first rule that a client's address fits counts; whom none fits gets no answer. `host` is for processes of the
    node itself, `others` for everybody else.
    """

    host: tuple[AdmissionRule, ...]
    others: tuple[AdmissionRule, ...]

    @property
    def listeners(self) -> tuple[ListenerName, ...]:
        """Those that clients can be handed to, each once."""
        rules = (*self.others, *self.host)
        return tuple(dict.fromkeys(rule.listener for rule in rules if rule.listener is not None))
