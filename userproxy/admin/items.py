"""What the admin API answers, as values: their fields are those of the JSON, and their docstrings its documentation.

Seconds, bytes and times are as in :mod:`userproxy.model.reports`; times of day are RFC 3339 in UTC.
"""

from typing import Any, Generic, Literal, TypeAlias, TypeVar

from msgspec import Struct

from userproxy.addresses import IPFamily
from userproxy.model.client_address import ClientAddress, ProxyProtocol
from userproxy.model.cluster import Protocol
from userproxy.model.limits import Limits
from userproxy.model.reports import ConnectionState, Outcome, Source
from userproxy.model.snapshots import TrafficClass, Verdict

T = TypeVar("T")

Control: TypeAlias = Literal["drains", "close", "faults", "capture"]


class EndpointCount(Struct, frozen=True, gc=False):
    """How many endpoints get new clients now, and how many there are."""

    usable: int
    all: int


class ServiceItem(Struct, frozen=True, gc=False):
    """A port of a Service, with both families together.

    `port` is its name, empty if it has none. `affinity` is Kubernetes' sessionAffinity. `total` are all connections and
    flows since userproxy opened it, those that were refused included; `failed` are clients whom no endpoint served,
    `retried` those who were served after another endpoint had failed. `client_address` is whose address endpoints are
    to see, `balancer` the name of what chooses among them; `proxy_protocol` is the PROXY header that they get,
    `accept_proxy_protocol` what trusted clients send. `limits` are those of clients: `connections` at a time, with
    `overflow` for those beyond, `rate` a second, `idle` seconds of silence; `limited` are clients refused by them.
    `hold` is for how many seconds clients are held while there is no endpoint, null to refuse them; `held` are those of
    now. `ejected` is how many endpoints get no new clients for now, because they have failed again and again.
    `waiting` are clients whom the limits keep waiting.
    """

    namespace: str
    name: str
    port: str
    protocol: Protocol
    portals: tuple[str, ...]
    balancer: str
    affinity: Literal["None", "ClientIP"]
    endpoints: EndpointCount
    active: int
    total: int
    failed: int
    retried: int
    bytes_up: int
    bytes_down: int
    client_address: ClientAddress
    proxy_protocol: ProxyProtocol | None
    accept_proxy_protocol: ProxyProtocol | None
    limits: Limits | None
    limited: int
    hold: float | None
    held: int
    ejected: int
    waiting: int


class EndpointItem(Struct, frozen=True, gc=False):
    """An endpoint of a Service's port. `reason` says why it is not used, or not now, or not by all clients.

    `usable` is whether new clients may get it. `failed` counts dials; `dial_p50_seconds` and `dial_p99_seconds` are of
    those that succeeded, null if none did. `weight` is its share against those of others, where weights differ.
    `ejected` is whether it gets no new clients for now, because it has failed again and again.
    """

    service: str
    port: str
    endpoint: str
    node: str | None
    zone: str | None
    ready: bool
    serving: bool
    terminating: bool
    usable: bool
    reason: str
    active: int
    total: int
    failed: int
    bytes_up: int
    bytes_down: int
    dial_p50_seconds: float | None
    dial_p99_seconds: float | None
    weight: int = 1
    ejected: bool = False


class ConnectionItem(Struct, frozen=True, gc=False):
    """A TCP connection, or a UDP flow, as it is now.

    `portal` is what the client dialled, null if that is not known: of a UDP flow where several portals lead here by
    netfilter. `dial_seconds` of a flow is 0. `endpoint` is null as long as none has been chosen. `idle_seconds` is
    since the client has last said or been told something. `retries` are endpoints that were given up before this one.
    `source` is whose address the endpoint sees, `source_address` that address and port; both are null as long as it is
    not dialled.
    `faults` names those that it is made to suffer now, and is empty otherwise.
    """

    id: int
    service: str
    port: str
    protocol: Protocol
    client: str
    portal: str | None
    endpoint: str | None
    state: ConnectionState
    age_seconds: float
    idle_seconds: float
    bytes_up: int
    bytes_down: int
    retries: int
    dial_seconds: float
    source: Source | None
    source_address: str | None
    faults: str = ""


class PortalItem(Struct, frozen=True, gc=False):
    """An address through which a Service's port is reached.

    A node port on all addresses is 0.0.0.0 or [::]. `local_port` is where clients from elsewhere are led, null where
    they are not served, or the portal itself is listened on. `in_sync` is whether the driver has confirmed that it
    stands as it is wanted.
    """

    portal: str
    kind: Literal["ClusterIP", "ExternalIP", "LoadBalancerIP", "NodePort"]
    protocol: Protocol
    service: str
    port: str
    local_port: int | None
    driver: str
    in_sync: bool


class AttemptItem(Struct, frozen=True, gc=False):
    """An endpoint that was tried in vain, and why."""

    endpoint: str
    reason: str


class DecisionItem(Struct, frozen=True, gc=False):
    """What became of a client. A connection that was retried and then served has two: `retried`, and at its end
    `served`. `source` is whose address the endpoint has seen, null where none was dialled."""

    time: str
    service: str
    port: str
    protocol: Protocol
    client: str
    portal: str | None
    endpoint: str | None
    verdict: Outcome
    reason: str
    tried: tuple[AttemptItem, ...]
    duration_seconds: float
    bytes_up: int
    bytes_down: int
    source: Source | None


class ProblemItem(Struct, frozen=True, gc=False):
    """Something that is wanted and not served, or endangered. `service` is null for what concerns the whole node;
    `here` is whether it may be otherwise on other nodes."""

    service: str | None
    kind: str
    text: str
    here: bool


class ExplainedEndpoint(Struct, frozen=True, gc=False):
    """An endpoint of a Service's port. `reason` says why the client does not get it, or why others go first."""

    endpoint: str
    node: str | None
    zone: str | None
    ready: bool
    serving: bool
    terminating: bool
    usable: bool
    reason: str


class Explained(Struct, frozen=True, gc=False):
    """What the next connection of a client meets. Nothing is changed by asking.

    `service` and `port` are those that have the portal, which may be others than were asked about. `traffic` is the
    class of the client at this portal, `policy` what the Service says about it, `list` which endpoints that comes to:
    those of the cluster or those of this node. `next` is whom the client gets, null unless the `verdict` is serve, and
    `next_reason` says why that one. `source` is whose address `next` sees, `source_address` that address, null where it
    is not known, and `source_reason` why. `header` is the PROXY header that the client is to begin with, null for none:
    who is named there is the client then. `alternatives` are endpoints that may be next instead: of several data
    processes, which take turns apart, it is not known which one accepts the client.
    """

    service: str
    port: str
    protocol: Protocol
    client: str
    portal: str
    kind: Literal["ClusterIP", "ExternalIP", "LoadBalancerIP", "NodePort"]
    driver: str
    traffic: TrafficClass
    policy: str
    list: Literal["cluster", "local"]
    verdict: Verdict
    reason: str
    next: str | None
    next_reason: str
    endpoints: tuple[ExplainedEndpoint, ...]
    source: Source | None
    source_address: str | None
    source_reason: str
    header: ProxyProtocol | None
    alternatives: tuple[str, ...] = ()


class Page(Struct, Generic[T], frozen=True, gc=False):
    """A part of a list. `next` is what to give as `after` for the following part, null at the end."""

    items: tuple[T, ...]
    next: str | None


class Change(Struct, Generic[T], frozen=True, gc=False):
    """What has become of an item. What there is already comes first, as ADDED; then one SYNCED without an object."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "SYNCED"]
    object: T | None = None


class CutOff(Struct, frozen=True, gc=False, tag="ERROR", tag_field="type"):
    """The last line of a watch whose reader was too slow: `lost` changes were not sent, if not 0."""

    message: str
    lost: int


class Failure(Struct, frozen=True, gc=False):
    """Why a request is not answered: one sentence."""

    error: str


class Version(Struct, frozen=True, gc=False):
    """The program that answers."""

    version: str
    api: Literal["v1"]
    python: str
    pid: int
    node: str
    started: str


class FamilyStatus(Struct, frozen=True, gc=False):
    """An address family. `served` is whether the driver's tools work for it here. It has been `in_sync` or not `since`
    then, and `reason` says why not. The other two numbers are what waits for a sync."""

    family: IPFamily
    driver: str
    served: bool
    in_sync: bool
    since: str
    reason: str
    pending_services: int
    pending_endpoint_slices: int


class WatchStatus(Struct, frozen=True, gc=False):
    """A source of objects. `last_event_age_seconds` is since it has last said anything, null if it never has; `reason`
    says what is wrong now, and is empty if nothing is."""

    resource: str
    synced: bool
    last_event_age_seconds: float | None
    reason: str


class ProcessStatus(Struct, frozen=True, gc=False):
    """A process of userproxy. `loop_lag_seconds` is the worst of the last ten seconds.

    `role` is ``control`` or ``data 1`` where data processes carry the traffic, empty where one process does everything;
    `restarts` is how often one of the same role has ended and was replaced.
    """

    pid: int
    loop_lag_seconds: float
    descriptors: int
    descriptor_limit: int
    connections: int
    flows: int
    pipes: int
    role: str = ""
    restarts: int = 0


class Status(Struct, frozen=True, gc=False):
    """Whether everything is as it should be. `in_sync` is so if all families that are served are; `healthy` is what
    health checks say. `controls` are the changes that may be asked for here, and whether captures may."""

    in_sync: bool
    healthy: bool
    version: str
    node: str
    source: str
    families: tuple[FamilyStatus, ...]
    watches: tuple[WatchStatus, ...]
    processes: tuple[ProcessStatus, ...]
    problems: int
    controls: tuple[Control, ...] = ()


class Configuration(Struct, frozen=True, gc=False):
    """The configuration in force: `kubeproxy` in the form of kube-proxy's file, and the values of our own flags."""

    kubeproxy: dict[str, Any]
    userproxy: dict[str, Any]


class Differences(Struct, frozen=True, gc=False):
    """What the source wants and the kernel has not, and what it has of ours that nobody wants; each a line of text.

    `unread` says what could not be looked at.
    """

    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    unread: tuple[str, ...]
