"""The figures of one listener as a value, made of its counters."""

from collections.abc import Iterable

from userproxy.forwarding.observation.counters import EndpointCounters, ListenerCounters
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Endpoint, ListenerName, Verdict
from userproxy.model.reports import DatagramFigures, EndpointFigures, ListenerFigures


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
