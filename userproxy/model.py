"""The vocabulary as frozen values. Imports nothing of ours, so every other module may import it.

Every value here is a :class:`msgspec.Struct`: immutable, hashable and serialisable, because snapshots
travel between processes. Addresses are canonical text (``ipaddress`` form); whoever creates a value
has validated it. Those that there are most of hold nothing but text and numbers, so the garbage collector need
not know them (``gc=False``).
"""

from enum import StrEnum

from msgspec import Struct


class Protocol(StrEnum):
    """Transport protocol of a service port, in Kubernetes' spelling."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


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


class PortSpec(Struct, frozen=True, gc=False):
    """One entry of a Service's ``spec.ports``. ``node_port`` is 0 where there is none."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0


class Service(Struct, frozen=True):
    """The fields of a core/v1 Service that a proxy reads.

    ``cluster_ips`` is empty for a headless Service; ``load_balancer_ips`` holds only ingress addresses
    that are to be treated as virtual IPs (KEP-1860); ``affinity_timeout`` is seconds, or None without
    session affinity; ``created`` is the RFC 3339 creation time or empty; ``proxy_name`` is the value of
    the label ``service.kubernetes.io/service-proxy-name`` or None.
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

    @property
    def key(self) -> ServiceName:
        return ServiceName(self.namespace, self.name)


class SlicePort(Struct, frozen=True, gc=False):
    """One entry of an EndpointSlice's ``ports``: the port that endpoints really listen on."""

    name: str
    protocol: Protocol
    port: int


class SliceEndpoint(Struct, frozen=True, gc=False):
    """One entry of an EndpointSlice's ``endpoints``; null conditions already have their defaults."""

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str | None = None
    zone: str | None = None


class EndpointSlice(Struct, frozen=True):
    """The fields of a discovery.k8s.io/v1 EndpointSlice that a proxy reads.

    ``service`` is the label ``kubernetes.io/service-name``. A core/v1 Endpoints object becomes one slice
    per subset.
    """

    namespace: str
    name: str
    service: str
    address_type: str
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[SliceEndpoint, ...] = ()

    @property
    def service_name(self) -> ServiceName:
        return ServiceName(self.namespace, self.service)


class Node(Struct, frozen=True):
    """The fields of a core/v1 Node that a proxy reads.

    ``deleting`` is whether its deletion has been asked for; ``taints`` are the keys alone, since no proxy
    looks at value or effect.
    """

    name: str
    addresses: tuple[str, ...] = ()
    zone: str | None = None
    pod_cidrs: tuple[str, ...] = ()
    deleting: bool = False
    taints: tuple[str, ...] = ()


class ServiceState(Struct, frozen=True):
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
    """One address through which a service port can be reached. ``ip`` is empty for a node port."""

    kind: PortalKind
    ip: str
    port: int

    def __str__(self) -> str:
        if not self.ip:
            return f"{self.kind} {self.port}"
        return f"{self.kind} [{self.ip}]:{self.port}" if ":" in self.ip else f"{self.kind} {self.ip}:{self.port}"


class ServicePort(Struct, frozen=True):
    """What one service port should be: its portals, its eligible endpoints and its affinity.

    ``created`` is the creation time of its Service: where two service ports claim one portal, the
    older Service has it.
    """

    name: ServicePortName
    portals: tuple[Portal, ...]
    endpoints: tuple[Endpoint, ...] = ()
    affinity_timeout: int | None = None
    created: str = ""


class Snapshot(Struct, frozen=True):
    """All that forwarding knows of a service port: whom to dial, and for how long clients stick.

    ``affinity_timeout`` is seconds since a client's last connection, or None without affinity.
    """

    name: ServicePortName
    endpoints: tuple[Endpoint, ...] = ()
    affinity_timeout: int | None = None


class ProblemKind(StrEnum):
    """What is wrong, as far as its cure depends on it."""

    PORT_CONFLICT = "port conflict"
    UNSUPPORTED_PROTOCOL = "unsupported protocol"


class Problem(Struct, frozen=True):
    """Something of a Service that is wanted and not served. `text` is one sentence for whoever owns it."""

    service: ServiceName
    kind: ProblemKind
    text: str


class PortalBinding(Struct, frozen=True):
    """The portals of a service port and the local port of the listener that they lead to."""

    name: ServicePortName
    local_port: int
    portals: tuple[Portal, ...]
