"""What the data plane says of itself: connections, decisions and figures, and the queries that ask for them.

Times of day are Unix times; durations are seconds, bytes are payload. Ids are whole numbers that grow, and each names
one connection or UDP flow for as long as the program runs.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Generic, TypeVar

from msgspec import Struct

from userproxy.addresses import IPFamily, host_and_port
from userproxy.model.client_address import ProxyProtocol
from userproxy.model.cluster import Protocol, ServicePortName
from userproxy.model.snapshots import Endpoint, ListenerName, Verdict


class ConnectionState(StrEnum):
    """How far a connection is. A UDP flow is OPEN or DRAINING.

    DIALING has no endpoint that has accepted yet. HELD waits for one to be there. HALF_CLOSED has been ended by one
    side. DRAINING is open, while its endpoint or its listener is gone, so that nobody else will get there.
    """

    DIALING = "dialing"
    HELD = "held"
    OPEN = "open"
    HALF_CLOSED = "half-closed"
    DRAINING = "draining"


class Outcome(StrEnum):
    """What became of a client.

    SERVED: the connection has ended in order, or the flow has. RETRIED: an endpoint has accepted after others did not;
    another decision follows when the connection ends. REFUSED: no endpoint has accepted, or the client is not let in.
    DROPPED: datagrams that nobody could be found for, and flows that made room for others. RESET: it was served until
    it was reset by either side, or by userproxy. TIMED_OUT: no endpoint has answered in time, or a half-closed
    connection was silent for too long.
    """

    SERVED = "served"
    RETRIED = "retried"
    REFUSED = "refused"
    DROPPED = "dropped"
    RESET = "reset"
    TIMED_OUT = "timed-out"


class DialFailure(StrEnum):
    """Why an endpoint was not reached, as far as figures tell that apart."""

    REFUSED = "refused"
    TIMED_OUT = "timed-out"
    UNREACHABLE = "unreachable"
    NO_LOCAL_PORT = "no-local-port"
    ENDPOINT_GONE = "endpoint-gone"
    ROUTING_LOOP = "routing-loop"
    OTHER = "other"


class Source(StrEnum):
    """Whose address an endpoint sees."""

    CLIENT = "client"
    NODE = "node"


class SourceFallback(StrEnum):
    """Why an endpoint sees the node's address although the client's was to be kept.

    NO_ANSWER: the client's got no answer in time, and the node's is tried. REMEMBERED: it was so before, for another
    client. NOT_YET_KNOWN: another client is finding out. NO_PORT: all ports of the client's address are in use towards
    the endpoint. NOT_POSSIBLE: the kernel does not let us.
    """

    NO_ANSWER = "no-answer"
    REMEMBERED = "remembered"
    NOT_YET_KNOWN = "not-yet-known"
    NO_PORT = "no-port"
    NOT_POSSIBLE = "not-possible"


class SocketAddress(Struct, frozen=True, order=True, gc=False):
    """IP address and port of a client, or that a client wrote to."""

    ip: str
    port: int

    def __str__(self) -> str:
        return host_and_port(self.ip, self.port)


class Query(Struct, frozen=True, gc=False):
    """Which connections, decisions or listeners are meant; a field that is None or empty admits all.

    `endpoint` with port 0 means all ports of that address. `states` and `connection`, the id of a single one, are about
    connections alone, `outcomes` about decisions alone.
    """

    namespace: str = ""
    service: str = ""
    port: str | None = None
    protocol: Protocol | None = None
    family: IPFamily | None = None
    endpoint: Endpoint | None = None
    client: str = ""
    states: tuple[ConnectionState, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    connection: int = 0

    def admits(self, name: ServicePortName) -> bool:
        """Whether it is about a service port."""
        return (
            (not self.namespace or self.namespace == name.namespace)
            and (not self.service or self.service == name.name)
            and (self.port is None or self.port == name.port)
            and (self.protocol is None or self.protocol is name.protocol)
        )

    def admits_listener(self, name: ListenerName) -> bool:
        """Whether it is about a listener, or what came by it."""
        return (self.family is None or self.family is name.family) and self.admits(name.service_port)

    def admits_endpoint(self, endpoint: Endpoint | None) -> bool:
        """Whether it is about what leads to an endpoint, or to none."""
        wanted = self.endpoint
        if wanted is None:
            return True
        return endpoint is not None and wanted.ip == endpoint.ip and wanted.port in (0, endpoint.port)


ALL: Final = Query()
"""Everything."""


class ConnectionReport(Struct, frozen=True, gc=False):
    """One TCP connection or UDP flow as it is now.

    `portal` is what the client dialled, None where that is not known any more. `opened` is on the loop's clock of the
    process that has it, `opened_at` the same as Unix time. `idle_seconds` is since the client has last said or been
    told something. `retries` are endpoints that were given up before `endpoint`. `dial_seconds` is how long it took
    until an endpoint accepted, or has taken so far. `source` is whose address the endpoint sees, None before it is
    dialled, and `dialled_from` that address and port, None where it is not known. `faults` names those that it
    is made to suffer now.
    """

    id: int
    listener: ListenerName
    client: SocketAddress
    portal: SocketAddress | None
    endpoint: Endpoint | None
    state: ConnectionState
    opened: float
    opened_at: float
    age_seconds: float
    idle_seconds: float
    bytes_up: int = 0
    bytes_down: int = 0
    retries: int = 0
    dial_seconds: float = 0.0
    source: Source | None = None
    dialled_from: SocketAddress | None = None
    faults: str = ""


class LostAnswers(Struct, frozen=True, order=True, gc=False):
    """Answers to clients' addresses do not come back, so endpoints see the node's: of one protocol and address family.

    It is so for all clients of an interface, empty for those behind a gateway, and the endpoints of a node, empty where
    that is not known; and was found out at `since`, Unix time, with one of each.
    """

    protocol: Protocol
    family: IPFamily
    interface: str
    node: str
    since: float
    client: str
    endpoint: Endpoint


class ConnectionPage(Struct, frozen=True, gc=False):
    """Connections by their ids. `next` is what to ask for connections after, None where there are no more."""

    items: tuple[ConnectionReport, ...] = ()
    next: int | None = None


class Attempt(Struct, frozen=True, gc=False):
    """An endpoint that was tried in vain, and why: the words of the system, in English."""

    endpoint: Endpoint
    reason: str


class Decision(Struct, frozen=True, gc=False):
    """What became of one client, and why. `reason` is empty where nothing is to be said.

    `time` is when that was known: for a connection that was served, when it ended. `id` is the connection's or flow's,
    0 where there was none. `duration_seconds` counts from when the client was accepted. `source` is whose address the
    endpoint has seen, None where none was dialled.
    """

    time: float
    listener: ListenerName
    client: SocketAddress
    portal: SocketAddress | None
    endpoint: Endpoint | None
    verdict: Outcome
    reason: str = ""
    tried: tuple[Attempt, ...] = ()
    duration_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    id: int = 0
    source: Source | None = None


class DialTimes(Struct, frozen=True, gc=False):
    """How long dials took that succeeded: how many in all, their sum, and how many within each of `bounds`.

    `counts` has one more than `bounds`, for those beyond the last; none of them counts twice.
    """

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    sum_seconds: float = 0.0

    @property
    def count(self) -> int:
        """How many dials there were."""
        return sum(self.counts)

    def quantile(self, part: float) -> float | None:
        """Seconds within which this `part` of the dials succeeded, interpolated; None where there was none.

        Beyond the last bound it is the last bound.
        """
        rank, below = part * self.count, 0
        lower = 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= rank:
                return lower + (bound - lower) * max(0.0, rank - below) / count
            below += count
            lower = bound
        return lower if below < self.count else None


class EndpointFigures(Struct, frozen=True, gc=False):
    """What one listener has had to do with one endpoint.

    `total` are connections or flows that it has accepted, `failed` dials of it that have failed. `usable` is whether
    the listener has it among its endpoints now. `passed_over_seconds` is for how much longer others go first, because
    it could not be reached. `ejected` says why it is ejected, and is empty if it is not; with 0 seconds its next
    connection is its trial.
    """

    endpoint: Endpoint
    usable: bool = True
    active: int = 0
    total: int = 0
    failed: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    dial: DialTimes = DialTimes()
    passed_over_seconds: float = 0.0
    ejected: str = ""


class DatagramFigures(Struct, frozen=True, gc=False):
    """What a UDP listener has done beside what all listeners do.

    `dropped` are datagrams that the kernel dropped because a buffer was full, `unsent` those that it would not send,
    `unserved` those of clients that no endpoint could be found for. `evicted` are flows that made room for others,
    `moved` those that went to another endpoint.
    """

    datagrams_up: int = 0
    datagrams_down: int = 0
    dropped: int = 0
    unsent: int = 0
    unserved: int = 0
    evicted: int = 0
    moved: int = 0


class ListenerFigures(Struct, frozen=True, gc=False):
    """One listener, what it has done since it was opened, and its endpoints.

    `local_port` is 0 where it has none. `active` are connections or flows now, `total` all there have been, those that
    were refused included. `failed` are clients whom no endpoint has served, `retried` those who were served after
    another endpoint had failed, `retries` dials that have failed, by reason; `refused` clients who were not let in, of
    whom `limited` are those for whom a limit of the Service left no room.
    `duration_sum_seconds` is of the `ended` ones that were served. Bytes of live connections are included.
    `affinity_entries` are clients who may stick to an endpoint: the listeners of a service port and family have them
    in common. `number` tells it from others of the same name, before and after it; they all have different ones.
    `ejections` is how many endpoints were ejected, each as often as it was. `held` are those of `active` who are held
    because there is no endpoint. `waiting` are clients who are accepted and whom a limit keeps waiting, `queued` those
    in the kernel's queue, which all processes have in common.
    """

    listener: ListenerName
    verdict: Verdict
    local_port: int = 0
    active: int = 0
    total: int = 0
    ended: int = 0
    failed: int = 0
    retried: int = 0
    refused: int = 0
    retries: Mapping[DialFailure, int] = {}
    bytes_up: int = 0
    bytes_down: int = 0
    duration_sum_seconds: float = 0.0
    dial: DialTimes = DialTimes()
    affinity_entries: int = 0
    datagrams: DatagramFigures | None = None
    endpoints: tuple[EndpointFigures, ...] = ()
    number: int = 0
    ejections: int = 0
    limited: int = 0
    held: int = 0
    waiting: int = 0
    queued: int = 0


class ProcessFigures(Struct, frozen=True, gc=False):
    """A process of userproxy, which carries traffic unless it is the one that controls others.

    `descriptors` are those in use of `descriptor_limit`. `pipes` are those of splice(2), in use and idle.
    `loop_lag_seconds` is the worst delay of its event loop in the last ten seconds. `evicted` are connections and flows
    that made room for others, `handler_failures` clients given up because of a bug, by protocol. `source_fallbacks`
    are dials from the node's address where the client's was to be kept. `role` is ``control`` or ``data 1`` where data
    processes carry the traffic, and empty where one process does everything; `restarts` is how often one of the same
    role has ended and was replaced. `faults` are those in force, `faulted` connections and flows that have suffered
    any.
    """

    pid: int
    descriptors: int
    descriptor_limit: int
    pipes: int = 0
    loop_lag_seconds: float = 0.0
    connections: int = 0
    flows: int = 0
    evicted: Mapping[Protocol, int] = {}
    handler_failures: Mapping[Protocol, int] = {}
    source_fallbacks: Mapping[SourceFallback, int] = {}
    role: str = ""
    restarts: int = 0
    faults: int = 0
    faulted: int = 0


class ChangeKind(StrEnum):
    """What has become of a connection since it was last told of."""

    ADDED = "added"
    MODIFIED = "modified"
    REMOVED = "removed"


class ConnectionChange(Struct, frozen=True, gc=False):
    """A connection that is new, has gone on to another state, or has ended: as it is now, or was at its end."""

    kind: ChangeKind
    connection: ConnectionReport


class Choice(Struct, frozen=True, gc=False):
    """The endpoint that a client would get next, None if there is none, and why that one.

    `source` is whose address it would see, and `source_reason` why: a clause. `source_address` is that address, empty
    where none is known. `header` is the PROXY header that the client is to begin with, None for none.
    `alternatives` are endpoints that it may get instead, where several processes choose apart and it is not known which
    of them accepts the client.
    """

    endpoint: Endpoint | None
    reason: str = ""
    source: Source | None = None
    source_address: str = ""
    source_reason: str = ""
    header: ProxyProtocol | None = None
    alternatives: tuple[Endpoint, ...] = ()


T = TypeVar("T")


class Batch(Struct, Generic[T], frozen=True, gc=False):
    """What has happened since the last batch.

    `lost` is not 0 where the reader was too slow: so many events were thrown away, and this batch is the last.
    """

    items: tuple[T, ...] = ()
    lost: int = 0
