"""What the cluster says: the fields of its objects that a proxy reads."""

from enum import StrEnum

from msgspec import Struct

from userproxy.model.balancing import BalancerName, Ejection
from userproxy.model.client_address import ClientAddress, ProxyProtocol
from userproxy.model.limits import Limits


class Protocol(StrEnum):
    """Transport protocol of a service port, in Kubernetes' spelling."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class ServiceName(Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """Namespace and name of a Service."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortName(Struct, frozen=True, order=True, gc=False, cache_hash=True):
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


class Service(Struct, frozen=True, gc=False):
    """The fields of a core/v1 Service that a proxy reads.

    ``cluster_ips`` is empty for a headless Service; ``load_balancer_ips`` holds only ingress addresses
    that are to be treated as virtual IPs (KEP-1860), ``balancer_ips`` the others; ``affinity_timeout`` is
    seconds, or None without session affinity; ``created`` is the RFC 3339 creation time or empty, ``uid`` what tells it
    from an earlier one of its name, empty in most manifests; ``proxy_name`` is the value of the label
    ``service.kubernetes.io/service-proxy-name`` or None. ``internal_local`` and ``external_local`` are whether the two
    traffic policies say ``Local``; ``source_ranges`` are canonical networks of either family.

    From annotations ``userproxy.io/``: ``close_removed_after`` is for how many seconds connections to endpoints that
    are gone may go on, None for ever, ``udp_timeout`` is seconds or None, ``client_address`` is None where the proxy's
    own setting counts, ``sends_proxy`` and ``accepts_proxy`` are versions of the PROXY protocol or None, ``balancer``
    is the name of what chooses among endpoints; with ``hint_weight`` those that are hinted to us do not get everything,
    but so many times as much as others; ``ejection`` says when those that fail are left out, ``limits`` are those
    of clients or None, ``hold`` is for how many seconds clients are held while there is no endpoint, None to refuse
    them. ``bad_annotations`` has a sentence for each that cannot be used.
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
    close_removed_after: float | None = None
    udp_timeout: float | None = None
    bad_annotations: tuple[str, ...] = ()
    balancer_ips: tuple[str, ...] = ()
    client_address: ClientAddress | None = None
    sends_proxy: ProxyProtocol | None = None
    accepts_proxy: ProxyProtocol | None = None
    balancer: str = BalancerName.ROUND_ROBIN
    hint_weight: int | None = None
    ejection: Ejection | None = None
    limits: Limits | None = None
    hold: float | None = None
    uid: str = ""

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
    """One entry of an EndpointSlice's ``endpoints``; null conditions already have their defaults.

    ``weight`` is by the slice's annotation, and 1 without one.
    """

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str | None = None
    hints: Hints | None = None
    zone: str | None = None
    weight: int = 1


class EndpointSlice(Struct, frozen=True, gc=False):
    """The fields of a discovery.k8s.io/v1 EndpointSlice that a proxy reads.

    ``service`` is the label ``kubernetes.io/service-name``. A core/v1 Endpoints object becomes one slice
    per subset. ``triggered`` is the Unix time of the change that led to this version, or None where the annotation
    ``endpoints.kubernetes.io/last-change-trigger-time`` does not tell. ``weighted`` is whether its endpoints have
    weights of their own, and ``bad_annotations`` has a sentence for each annotation that cannot be used.
    """

    namespace: str
    name: str
    service: str
    address_type: str
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[SliceEndpoint, ...] = ()
    triggered: float | None = None
    weighted: bool = False
    bad_annotations: tuple[str, ...] = ()

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
