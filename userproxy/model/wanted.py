"""What is wanted of this node: service ports with portals and routes, bindings for portal drivers, kernel settings."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct

from userproxy.addresses import IPFamily, host_and_port
from userproxy.model.balancing import BalancerName, Ejection
from userproxy.model.client_address import ClientAddress, ProxyProtocol
from userproxy.model.cluster import ServiceName, ServicePortName
from userproxy.model.limits import Limits
from userproxy.model.snapshots import BalancerAccess, Endpoint, ListenerName, TrafficClass, Verdict


class PortalKind(StrEnum):
    """What kind of address a portal is; the order is kube-proxy's order of opening them."""

    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER_IP = "load-balancer IP"
    NODE_PORT = "node port"


class Portal(Struct, frozen=True, gc=False):
    """One address through which a service port can be reached. A node port's ``ip`` is empty: every local address."""

    kind: PortalKind
    ip: str
    port: int

    def __str__(self) -> str:
        if not self.ip:
            return f"{self.kind} {self.port}"
        return f"{self.kind} {host_and_port(self.ip, self.port)}"


class Route(Struct, frozen=True, gc=False):
    """Where one class of a service port's traffic goes. ``endpoints`` is empty unless the verdict is SERVE.

    ``nodes`` has the name of each endpoint's node, empty where it is not known; nothing where backends are to see the
    node's address as their client. ``weights`` has a weight for each endpoint, nothing where they are all alike.
    """

    traffic: TrafficClass = TrafficClass.INTERNAL
    verdict: Verdict = Verdict.REJECT
    endpoints: tuple[Endpoint, ...] = ()
    nodes: tuple[str, ...] = ()
    weights: tuple[int, ...] = ()


class ServicePort(Struct, frozen=True, gc=False):
    """What one service port should be in one address family.

    ``routes`` has a listener each; the first is INTERNAL. ``external`` and ``on_node`` name the route that those
    classes of traffic take. ``source_ranges`` are the networks that may use load-balancer IPs, all if empty.
    ``created`` is the creation time of its Service: where two service ports claim one portal, the older Service has
    it. ``known`` is None, or all endpoints that any slice names: connections to others are closed,
    ``closes_after`` seconds after they were the last time. ``udp_timeout`` is seconds, or None for the process's own.
    ``health_check_port`` is the Service's ``healthCheckNodePort`` at the first of its ports, else 0. ``unused`` are the
    endpoints that slices name and no route here has. ``balancers`` are where load balancers outside the cluster lead to
    the service port. ``client_address`` is whose address endpoints see; ``sends_proxy`` and ``accepts_proxy`` are the
    PROXY headers that they get, and that trusted clients send; ``balancer_access`` is for clients whose addresses come
    from such headers. ``balancer`` is the name of what chooses among endpoints,
    ``ejection`` says when those that fail are left out, and ``limits`` are those of its clients. Where ``hold`` is not
    None a route may have the verdict SERVE and no endpoints: its clients are held for so many seconds.
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
    client_address: ClientAddress = ClientAddress.NODE
    sends_proxy: ProxyProtocol | None = None
    accepts_proxy: ProxyProtocol | None = None
    balancer_access: BalancerAccess | None = None
    closes_after: float = 0.0
    balancer: str = BalancerName.ROUND_ROBIN
    ejection: Ejection | None = None
    limits: Limits | None = None
    hold: float | None = None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints that slices name, some of them twice."""
        if len(self.routes) == 1:
            return self.routes[0].endpoints + self.unused
        return (*[endpoint for route in self.routes for endpoint in route.endpoints], *self.unused)

    @property
    def listeners(self) -> tuple[ListenerName, ...]:
        """The names of its listeners, in the order of its routes."""
        return tuple([ListenerName(self.name, self.family, route.traffic) for route in self.routes])


class HealthCheck(Struct, frozen=True, gc=False):
    """A Service's ``healthCheckNodePort``, and how many ready endpoints this node has for it: distinct addresses."""

    service: ServiceName
    port: int
    local_endpoints: int


class Target(Struct, frozen=True, gc=False):
    """What a portal does with one class of traffic: the verdict, and where it leads if that is SERVE.

    ``local_port`` is that of the listener, 0 if it has none; ``traffic`` names the listener among those of its service
    port.
    """

    verdict: Verdict
    local_port: int = 0
    traffic: TrafficClass = TrafficClass.INTERNAL

    def is_like(self, other: "Target") -> bool:
        """Whether both traffic classes fare alike: one verdict, and one local port if they are served."""
        return self.verdict is other.verdict and (
            self.local_port == other.local_port or self.verdict is not Verdict.SERVE
        )


def local_ports_of(targets: Iterable[Target]) -> list[int]:
    """The local ports that serve any of `targets`, in their order, each once."""
    return list(dict.fromkeys(target.local_port for target in targets if target.verdict is Verdict.SERVE))


class PortalBinding(Struct, frozen=True, gc=False):
    """The portals of a service port, and where each class of traffic to them is led.

    Cluster IPs take ``internal``; the other portals take ``on_node`` for this node's Pods and processes, and
    ``external`` for everybody else. Load-balancer IPs serve only ``source_ranges``, all if empty. A node port may
    have an ``ip`` here: then it is served on that address alone. ``health_check_port`` is to be let in, if not 0.
    """

    name: ServicePortName
    portals: tuple[Portal, ...]
    internal: Target
    external: Target
    on_node: Target
    source_ranges: tuple[str, ...] = ()
    health_check_port: int = 0


class PortalSync(Struct, frozen=True, gc=False):
    """What a sync of the portals has come to.

    `differed` is whether what stood was looked at and was something else. `refused` are all service ports whose rules
    do not stand, because the node's tools take those of others and not theirs, and what was said of them.
    `changed_by` names the programs that had changed what stood, where that is known.
    """

    differed: bool = False
    refused: Mapping[ServicePortName, str] = {}
    changed_by: str = ""


class Differences(Struct, frozen=True, gc=False):
    """What is wanted and is not there, and what is there of ours and not wanted: a line of text for each."""

    missing: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()


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
