"""The figures of one listener as a value, made of its counters; and what must have been counted, made of figures."""

from collections.abc import Iterable

from msgspec import structs

from userproxy.forwarding.observation.counters import (
    NOTHING_COUNTED,
    CountersState,
    DialCountsState,
    EndpointCounters,
    EndpointCountersState,
    ListenerCounters,
)
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Endpoint, ListenerName, Verdict
from userproxy.model.reports import DatagramFigures, DialTimes, EndpointFigures, ListenerFigures


def figures_of(
    name: ListenerName,
    counters: ListenerCounters,
    verdict: Verdict,
    endpoints: Iterable[EndpointFigures],
    local_port: int = 0,
    affinity_entries: int = 0,
) -> ListenerFigures:
    """The figures of a listener with these counters and endpoints."""
    return ListenerFigures(
        listener=name,
        verdict=verdict,
        local_port=local_port,
        active=counters.active,
        total=counters.accepted,
        ended=counters.ended,
        failed=counters.unopened if isinstance(counters, UdpStatistics) else counters.unserved,
        retried=counters.retried,
        refused=counters.refused,
        retries=dict(counters.retries),
        bytes_up=counters.bytes_up,
        bytes_down=counters.bytes_down,
        duration_sum_seconds=counters.seconds,
        dial=counters.endpoints.dial_times,
        affinity_entries=affinity_entries,
        datagrams=_datagrams(counters) if isinstance(counters, UdpStatistics) else None,
        endpoints=tuple(endpoints),
        number=counters.number,
        limited=counters.limited,
        held=counters.held,
    )


def endpoint_figures(
    endpoint: Endpoint, counters: EndpointCounters | None, passed_over_seconds: float = 0.0, ejected: str = ""
) -> EndpointFigures:
    """The figures of one endpoint of a listener; `counters` are None where nothing was counted yet."""
    if counters is None:
        return EndpointFigures(endpoint, passed_over_seconds=passed_over_seconds, ejected=ejected)
    return EndpointFigures(
        endpoint=endpoint,
        usable=counters.usable,
        active=counters.active,
        total=counters.total,
        failed=counters.failed,
        bytes_up=counters.bytes_up,
        bytes_down=counters.bytes_down,
        dial=counters.dial.times(),
        passed_over_seconds=passed_over_seconds,
        ejected=ejected,
    )


def counted(figures: ListenerFigures) -> CountersState:
    """What a listener has counted that has these figures."""
    datagrams = figures.datagrams
    numbers: dict[str, int | float] = {
        "accepted": figures.total,
        "bytes_down": figures.bytes_down,
        "bytes_up": figures.bytes_up,
        "dial_failures": sum(figures.retries.values()),
        "ended": figures.ended,
        "limited": figures.limited,
        "refused": figures.refused,
        "retried": figures.retried,
        "seconds": figures.duration_sum_seconds,
        "unserved": figures.failed,
    }
    if datagrams is not None:
        numbers |= structs.asdict(datagrams)
        numbers["_dropped"] = numbers.pop("dropped")
        numbers["unopened"] = figures.failed
    endpoints = tuple((each.endpoint, _endpoint_counted(each)) for each in figures.endpoints)
    return CountersState(numbers, dict(figures.retries), endpoints, _departed(figures))


def _endpoint_counted(figures: EndpointFigures) -> EndpointCountersState:
    sums = (figures.total, figures.failed, figures.bytes_up, figures.bytes_down)
    return EndpointCountersState(*sums, _dials(figures.dial))


def _dials(times: DialTimes) -> DialCountsState:
    return DialCountsState(tuple(times.counts), times.sum_seconds) if times.counts else NOTHING_COUNTED.departed


def _departed(figures: ListenerFigures) -> DialCountsState:
    """How long dialling the endpoints took that are gone."""
    counts, seconds = list(_dials(figures.dial).counts), figures.dial.sum_seconds
    for each in figures.endpoints:
        dial = _dials(each.dial)
        counts = [mine - its for mine, its in zip(counts, dial.counts, strict=True)]
        seconds -= dial.sum_seconds
    return DialCountsState(tuple(max(0, number) for number in counts), max(0.0, seconds))


def _datagrams(statistics: UdpStatistics) -> DatagramFigures:
    return DatagramFigures(
        datagrams_up=statistics.datagrams_up,
        datagrams_down=statistics.datagrams_down,
        dropped=statistics.dropped,
        unsent=statistics.unsent,
        unserved=statistics.unserved,
        evicted=statistics.evicted,
        moved=statistics.moved,
    )
