"""The families of metrics that each service port has, and how their values follow from its listeners' figures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from userproxy.model import Endpoint, IPFamily, Protocol
from userproxy.model.reports import DatagramFigures, DialFailure, DialTimes, EndpointFigures, ListenerFigures

DIAL_BUCKETS: Final = (
    *(0.00001, 0.000025, 0.000063, 0.00016, 0.0004, 0.001, 0.0025, 0.0063, 0.016, 0.04, 0.1, 0.25, 0.63, 1.6, 4.0),
)
"""Seconds, 2.5 times as many each. They are among the bounds that the data plane counts by, so none is estimated."""

_BOTH: Final = (Protocol.TCP, Protocol.UDP)
_UDP: Final = (Protocol.UDP,)
_STATES: Final = ("usable", "passed-over", "ejected", "draining")
_PASSED_OVER, _EJECTED, _DRAINING = range(1, 4)
_NO_DATAGRAMS: Final = DatagramFigures()


class Column(Struct, frozen=True):
    """One of a family's samples for each service port: what follows the family's name, and labels of its own."""

    suffix: str = ""
    labels: Mapping[str, str] = {}


class Counters(Struct, frozen=True):
    """A family that counts. `values` are those of one listener, a value for each column, none of which ever shrinks.

    Only service ports of these `protocols` have it. `type` is Prometheus' name of the type.
    """

    name: str
    text: str
    columns: tuple[Column, ...]
    values: Callable[[ListenerFigures], Sequence[float]]
    protocols: tuple[Protocol, ...] = _BOTH
    type: str = "counter"


class Gauges(Struct, frozen=True):
    """A family of what is now. `values` are of all listeners of one service port, one for each column."""

    name: str
    text: str
    columns: tuple[Column, ...]
    values: Callable[[Sequence[ListenerFigures]], Sequence[float]]
    protocols: tuple[Protocol, ...] = _BOTH
    type: str = "gauge"


def _labelled(label: str, values: Iterable[str], suffix: str = "_total") -> tuple[Column, ...]:
    return tuple(Column(suffix, {label: value}) for value in values)


_TOTAL: Final = (Column("_total"),)
_DIAL_COLUMNS: Final = (
    *_labelled("le", (*(f"{bound:.6f}".rstrip("0").removesuffix(".") for bound in DIAL_BUCKETS), "+Inf"), "_bucket"),
    Column("_count"),
    Column("_sum"),
)
_NO_DIALS: Final = (0.0,) * len(_DIAL_COLUMNS)


def _dial_failures(figures: ListenerFigures) -> Sequence[float]:
    return [figures.retries.get(reason, 0) for reason in DialFailure]


def _dials(figures: ListenerFigures) -> Sequence[float]:
    dial = figures.dial
    return (*_cumulative(dial), dial.count, dial.sum_seconds) if dial.counts and any(dial.counts) else _NO_DIALS


def _cumulative(dial: DialTimes) -> list[float]:
    """How many dials took no longer than each of DIAL_BUCKETS, and how many there were."""
    within: list[float] = []
    total, index = 0, 0
    for bucket in DIAL_BUCKETS:
        while index < len(dial.bounds) and dial.bounds[index] <= bucket:
            total += dial.counts[index]
            index += 1
        within.append(total)
    return [*within, dial.count]


def _datagrams(figures: ListenerFigures) -> Sequence[float]:
    datagrams = figures.datagrams or _NO_DATAGRAMS
    return datagrams.datagrams_up, datagrams.datagrams_down


def _dropped(figures: ListenerFigures) -> Sequence[float]:
    datagrams = figures.datagrams or _NO_DATAGRAMS
    return datagrams.dropped, datagrams.unsent, datagrams.unserved


def _affinity_entries(listeners: Sequence[ListenerFigures]) -> Sequence[float]:
    """Listeners of one family have their entries in common."""
    by_family: dict[IPFamily, int] = {}
    for each in listeners:
        family = each.listener.family
        by_family[family] = max(by_family.get(family, 0), each.affinity_entries)
    return (sum(by_family.values()),)


def _endpoints(listeners: Sequence[ListenerFigures]) -> Sequence[float]:
    """Each endpoint once, in the best state that it has for one of the listeners."""
    best: dict[Endpoint, int] = {}
    for listener in listeners:
        for each in listener.endpoints:
            state = _state(each)
            if state < _DRAINING or each.active:
                best[each.endpoint] = min(state, best.get(each.endpoint, state))
    states = list(best.values())
    return [states.count(state) for state in range(len(_STATES))]


def _state(endpoint: EndpointFigures) -> int:
    """The place of its state among all, of which the best comes first."""
    if not endpoint.usable:
        return _DRAINING
    if endpoint.ejected:
        return _EJECTED
    return _PASSED_OVER if endpoint.passed_over_seconds > 0 else 0


COUNTERS: Final = (
    Counters(
        "userproxy_connections_opened",
        "Connections and UDP flows that clients have opened, those that nobody served included",
        _TOTAL,
        lambda figures: (figures.total,),
    ),
    Counters(
        "userproxy_connections_failed",
        "Connections and UDP flows that no endpoint has served",
        _TOTAL,
        lambda figures: (figures.failed,),
    ),
    Counters(
        "userproxy_connections_refused",
        "Clients who were not let in",
        _TOTAL,
        lambda figures: (figures.refused,),
    ),
    Counters(
        "userproxy_connections_limited",
        "Clients who were not let in because a limit of their Service left no room",
        _TOTAL,
        lambda figures: (figures.limited,),
        (Protocol.TCP,),
    ),
    Counters(
        "userproxy_connections_retried",
        "Connections and UDP flows that were served after another endpoint had failed",
        _TOTAL,
        lambda figures: (figures.retried,),
    ),
    Counters(
        "userproxy_dial_failures",
        "Endpoints that were dialled in vain, by reason",
        _labelled("reason", DialFailure),
        _dial_failures,
    ),
    Counters(
        "userproxy_ejections",
        "Endpoints that were ejected because they failed again and again",
        _TOTAL,
        lambda figures: (figures.ejections,),
    ),
    Counters(
        "userproxy_dial_seconds",
        "How long it took until an endpoint accepted",
        _DIAL_COLUMNS,
        _dials,
        (Protocol.TCP,),
        "histogram",
    ),
    Counters(
        "userproxy_connection_duration_seconds",
        "How long connections and UDP flows lasted that were served and have ended",
        (Column("_count"), Column("_sum")),
        lambda figures: (figures.ended, figures.duration_sum_seconds),
        type="summary",
    ),
    Counters(
        "userproxy_bytes",
        "Payload: up is what clients sent and endpoints got, down is the way back",
        _labelled("direction", ("up", "down")),
        lambda figures: (figures.bytes_up, figures.bytes_down),
    ),
    Counters(
        "userproxy_datagrams",
        "Datagrams that were passed on",
        _labelled("direction", ("up", "down")),
        _datagrams,
        _UDP,
    ),
    Counters(
        "userproxy_datagrams_dropped",
        "Datagrams that were not passed on: a buffer was full, the kernel would not send them, nobody serves them",
        _labelled("reason", ("buffer-full", "not-sent", "no-endpoint")),
        _dropped,
        _UDP,
    ),
    Counters(
        "userproxy_flows_evicted",
        "UDP flows that made room for others",
        _TOTAL,
        lambda figures: ((figures.datagrams or _NO_DATAGRAMS).evicted,),
        _UDP,
    ),
    Counters(
        "userproxy_flows_moved",
        "UDP flows that went on to another endpoint",
        _TOTAL,
        lambda figures: ((figures.datagrams or _NO_DATAGRAMS).moved,),
        _UDP,
    ),
)

GAUGES: Final = (
    Gauges(
        "userproxy_connections_active",
        "Connections and UDP flows now",
        (Column(),),
        lambda listeners: (sum(each.active for each in listeners),),
    ),
    Gauges(
        "userproxy_clients_held",
        "Clients who are held because their Service has no endpoint",
        (Column(),),
        lambda listeners: (sum(each.held for each in listeners),),
    ),
    Gauges(
        "userproxy_clients_waiting",
        "Clients whom a limit of their Service keeps waiting",
        (Column(),),
        lambda listeners: (sum(each.waiting + each.queued for each in listeners),),
    ),
    Gauges("userproxy_affinity_entries", "Clients who may stick to an endpoint", (Column(),), _affinity_entries),
    Gauges(
        "userproxy_endpoints",
        "Endpoints: usable, passed over because dialling them failed, ejected because that went on, or gone but with"
        " clients that stay (draining)",
        _labelled("state", _STATES, ""),
        _endpoints,
    ),
)


def counts_of(figures: ListenerFigures) -> list[float]:
    """What a listener has counted: the values of all COUNTERS, in their order."""
    return [value for family in COUNTERS for value in family.values(figures)]


def gauges_of(listeners: Sequence[ListenerFigures]) -> list[float]:
    """How things are for the listeners of one service port: the values of all GAUGES, in their order."""
    return [value for family in GAUGES for value in family.values(listeners)]
