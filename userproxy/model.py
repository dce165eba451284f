"""The vocabulary as frozen values. Imports nothing of ours, so every other module may import it.

Every value here is a :class:`msgspec.Struct`: immutable, hashable and serialisable, because snapshots
travel between processes. Addresses are canonical text (``ipaddress`` form); whoever creates a value
has validated it. A value is made of values that were there before it, so none is part of a cycle and the garbage
collector need not know them (``gc=False``): walking those of 10,000 Services would hold up traffic for 0.1 s.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum

from msgspec import Struct


class Protocol(StrEnum):
    """Transport protocol of a service port, in Kubernetes' spelling."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class IPFamily(StrEnum):
    """One of the two address families; all of a proxy's state exists once for each."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


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


class PortalKind(StrEnum):
    """What kind of address a portal is; the order is kube-proxy's order of opening them."""

    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER_IP = "load-balancer IP"
    NODE_PORT = "node port"


class ServiceName(Struct, frozen=True, order=True, gc=False):
    """Namespace and name of a Service."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortName(Struct, frozen=True, order=True, gc=False):
    """The key of everything: a Service's port by name and protocol.

    Prints as kube-proxy prints it, ``ns/name`` or ``ns/name:port``; the protocol is never printed.
    """

    namespace: str
    name: str
    port: str
    protocol: Protocol

    @property
    def service(self) -> ServiceName:
        return ServiceName(self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.port}" if self.port else f"{self.namespace}/{self.name}"


class ListenerName(Struct, frozen=True, order=True, gc=False):
    """What makes a listener: a service port, an address family, and the traffic that it takes."""

    service_port: ServicePortName
    family: IPFamily = IPFamily.IPV4
    traffic: TrafficClass = TrafficClass.INTERNAL

    def __str__(self) -> str:
        marks: list[str] = [self.family] if self.family is not IPFamily.IPV4 else []
        marks += [self.traffic] if self.traffic is not TrafficClass.INTERNAL else []
        return f"{self.service_port} ({', '.join(marks)})" if marks else str(self.service_port)


class PortSpec(Struct, frozen=True, gc=False):
    """One entry of a Service's ``spec.ports``. ``node_port`` is 0 where there is none."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0


class Service(Struct, frozen=True, gc=False):
    """The fields of a core/v1 Service that a proxy reads.

    ``cluster_ips`` is empty for a headless Service; ``load_balancer_ips`` holds only ingress addresses
    that are to be treated as virtual IPs (KEP-1860), ``balancer_ips`` the others; ``affinity_timeout`` is
    seconds, or None without session affinity; ``created`` is the RFC 3339 creation time or empty; ``proxy_name``
    is the value of the label ``service.kubernetes.io/service-proxy-name`` or None. ``internal_local`` and
    ``external_local`` are whether the two traffic policies say ``Local``; ``source_ranges`` are canonical
    networks of either family.

    From annotations ``userproxy.io/``: ``close_removed`` ends the connections of endpoints that are gone,
    ``udp_timeout`` is seconds or None, and ``bad_annotations`` has a sentence for each that cannot be used.
    """

    namespace: str
    name: str
    type: str = "ClusterIP"
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    affinity_timeout: int | None = None
    created: str = ""
    proxy_name: str | None = None
    internal_local: bool = False
    external_local: bool = False
    source_ranges: tuple[str, ...] = ()
    health_check_node_port: int = 0
    close_removed: bool = False
    udp_timeout: float | None = None
    bad_annotations: tuple[str, ...] = ()
    balancer_ips: tuple[str, ...] = ()

    @property
    def key(self) -> ServiceName:
        return ServiceName(self.namespace, self.name)


class SlicePort(Struct, frozen=True, gc=False):
    """One entry of an EndpointSlice's ``ports``: the port that endpoints really listen on."""

    name: str
    protocol: Protocol
    port: int


class Hints(Struct, frozen=True, gc=False):
    """For whom an endpoint is meant (KEP-2433, KEP-3015): names of zones and of nodes."""

    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class SliceEndpoint(Struct, frozen=True, gc=False):
    """One entry of an EndpointSlice's ``endpoints``; null conditions already have their defaults."""

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str | None = None
    hints: Hints | None = None


class EndpointSlice(Struct, frozen=True, gc=False):
    """The fields of a discovery.k8s.io/v1 EndpointSlice that a proxy reads.

    ``service`` is the label ``kubernetes.io/service-name``. A core/v1 Endpoints object becomes one slice
    per subset. ``triggered`` is the Unix time of the change that led to this version, or None where the annotation
    ``endpoints.kubernetes.io/last-change-trigger-time`` does not tell.
    """

    namespace: str
    name: str
    service: str
    address_type: str
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[SliceEndpoint, ...] = ()
    triggered: float | None = None

    @property
    def service_name(self) -> ServiceName:
        return ServiceName(self.namespace, self.service)


class Node(Struct, frozen=True, gc=False):
    """The fields of a core/v1 Node that a proxy reads.

    ``deleting`` is whether its deletion has been asked for; ``taints`` are the keys alone, since no proxy
    looks at value or effect. ``labelled`` is whether it has the label ``userproxy.io/node``, by which the example
    DaemonSet chooses nodes.
    """

    name: str
    addresses: tuple[str, ...] = ()
    zone: str | None = None
    pod_cidrs: tuple[str, ...] = ()
    deleting: bool = False
    taints: tuple[str, ...] = ()
    labelled: bool = False


class ServiceState(Struct, frozen=True, gc=False):
    """A Service and all slices that belong to it, as the cluster has them now."""

    service: Service
    slices: tuple[EndpointSlice, ...] = ()


class Endpoint(Struct, frozen=True, order=True, gc=False):
    """One backend address of a service port."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


class Portal(Struct, frozen=True, gc=False):
    """One address through which a service port can be reached. A node port's ``ip`` is empty: every local address."""

    kind: PortalKind
    ip: str
    port: int

    def __str__(self) -> str:
        if not self.ip:
            return f"{self.kind} {self.port}"
        return f"{self.kind} [{self.ip}]:{self.port}" if ":" in self.ip else f"{self.kind} {self.ip}:{self.port}"


class Route(Struct, frozen=True, gc=False):
    """Where one class of a service port's traffic goes. ``endpoints`` is empty unless the verdict is SERVE."""

    traffic: TrafficClass = TrafficClass.INTERNAL
    verdict: Verdict = Verdict.REJECT
    endpoints: tuple[Endpoint, ...] = ()


class ServicePort(Struct, frozen=True, gc=False):
    """What one service port should be in one address family.

    ``routes`` has a listener each; the first is INTERNAL. ``external`` and ``on_node`` name the route that those
    classes of traffic take. ``source_ranges`` are the networks that may use load-balancer IPs, all if empty.
    ``created`` is the creation time of its Service: where two service ports claim one portal, the older Service has
    it. ``known`` is None, or all endpoints that any slice names: connections to others are closed. ``udp_timeout``
    is seconds, or None for the process's own. ``health_check_port`` is the Service's ``healthCheckNodePort`` at the
    first of its ports, else 0. ``unused`` are the endpoints that slices name and no route here has. ``balancers`` are
    where load balancers outside the cluster lead to the service port.
    """

    name: ServicePortName
    portals: tuple[Portal, ...]
    routes: tuple[Route, ...] = (Route(),)
    external: TrafficClass = TrafficClass.INTERNAL
    on_node: TrafficClass = TrafficClass.INTERNAL
    family: IPFamily = IPFamily.IPV4
    affinity_timeout: int | None = None
    source_ranges: tuple[str, ...] = ()
    created: str = ""
    known: tuple[Endpoint, ...] | None = None
    udp_timeout: float | None = None
    health_check_port: int = 0
    unused: tuple[Endpoint, ...] = ()
    balancers: tuple[Endpoint, ...] = ()

    @property
    def endpoints(self) -> Iterator[Endpoint]:
        """All endpoints that slices name, some of them twice."""
        for route in self.routes:
            yield from route.endpoints
        yield from self.unused

    @property
    def listeners(self) -> tuple[ListenerName, ...]:
        """The names of its listeners, in the order of its routes."""
        return tuple(ListenerName(self.name, self.family, route.traffic) for route in self.routes)


class Snapshot(Struct, frozen=True, gc=False):
    """All that forwarding knows of a listener's traffic: whom to dial, and for how long clients stick.

    ``affinity_timeout`` is seconds since a client's last connection, or None without affinity; listeners of one
    service port and family share their clients' affinity. Connections to endpoints that are not among ``known`` are
    closed; None leaves all alone. ``udp_timeout`` is seconds, or None for the process's own.
    """

    listener: ListenerName
    verdict: Verdict = Verdict.SERVE
    endpoints: tuple[Endpoint, ...] = ()
    affinity_timeout: int | None = None
    known: tuple[Endpoint, ...] | None = None
    udp_timeout: float | None = None


class HealthCheck(Struct, frozen=True, gc=False):
    """A Service's ``healthCheckNodePort``, and how many ready endpoints this node has for it: distinct addresses."""

    service: ServiceName
    port: int
    local_endpoints: int


class ProblemKind(StrEnum):
    """What is wrong, as far as its cure depends on it."""

    PORT_CONFLICT = "port conflict"
    UNSUPPORTED_PROTOCOL = "unsupported protocol"
    BAD_ANNOTATION = "bad annotation"
    HEALTH_CHECK = "health check"
    PORTALS_REFUSED = "portals refused"
    OUT_OF_DESCRIPTORS = "out of descriptors"


class Problem(Struct, frozen=True, gc=False):
    """Something of a Service that is wanted and not served. `text` is one sentence for whoever owns it.

    `here` means that it is so on this node, and need not be on others.
    """

    service: ServiceName
    kind: ProblemKind
    text: str
    here: bool = False


class Lead(Struct, frozen=True, gc=False):
    """What a portal's rules do with one class of traffic. ``local_port`` counts for SERVE only."""

    verdict: Verdict
    local_port: int = 0


class PortalBinding(Struct, frozen=True, gc=False):
    """The portals of a service port, and where each class of traffic to them is led.

    Cluster IPs take ``internal``; the other portals take ``on_node`` for this node's Pods and processes, and
    ``external`` for everybody else. Load-balancer IPs serve only ``source_ranges``, all if empty. A node port may
    have an ``ip`` here: then it is served on that address alone. ``health_check_port`` is to be let in, if not 0.
    """

    name: ServicePortName
    portals: tuple[Portal, ...]
    internal: Lead
    external: Lead
    on_node: Lead
    source_ranges: tuple[str, ...] = ()
    health_check_port: int = 0


class PortalSync(Struct, frozen=True, gc=False):
    """What a sync of the portals has come to.

    `differed` is whether what stood was looked at and was something else. `refused` are all service ports whose rules
    do not stand, because the node's tools take those of others and not theirs, and what was said of them.
    """

    differed: bool = False
    refused: Mapping[ServicePortName, str] = {}


class LocalTraffic(Struct, frozen=True, gc=False):
    """How packets of this node's Pods are recognised (``--detect-local-mode``); nothing is, if all are empty.

    ``networks`` are their source addresses; ``interface`` is where they arrive, as iptables writes it (``cbr0``, or
    ``veth+`` for a prefix).
    """

    networks: tuple[str, ...] = ()
    interface: str = ""


class ConntrackSettings(Struct, frozen=True, kw_only=True, gc=False):
    """What is asked of the kernel's connection tracking, by kube-proxy's names and with its defaults.

    Time limits are seconds. Zero leaves a value as it is, and so does False; `min` counts beside `max_per_core` alone.
    """

    max_per_core: int = 32768
    min: int = 131072
    tcp_established_timeout: float = 86400
    tcp_close_wait_timeout: float = 3600
    tcp_be_liberal: bool = False
    udp_timeout: float = 0
    udp_stream_timeout: float = 0
