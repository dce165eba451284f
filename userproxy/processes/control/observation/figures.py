"""Figures of several processes added up, as if one process had them. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from msgspec import structs

from userproxy.model import Endpoint, Protocol
from userproxy.model.reports import Choice, DatagramFigures, DialTimes, EndpointFigures, ListenerFigures, ProcessFigures

Key = TypeVar("Key")


def merged(figures: Sequence[ListenerFigures], dead: ListenerFigures | None = None) -> ListenerFigures:
    """The figures of one listener of several processes, at least one; `dead` is what :func:`bequest` has left."""
    every = (*figures, dead) if dead is not None else tuple(figures)
    first = figures[0]
    if len(every) == 1:
        return first
    endpoints = _endpoints([each.endpoints for each in figures], dead.endpoints if dead is not None else ())
    return structs.replace(
        first,
        active=sum(each.active for each in every),
        total=sum(each.total for each in every),
        ended=sum(each.ended for each in every),
        failed=sum(each.failed for each in every),
        retried=sum(each.retried for each in every),
        refused=sum(each.refused for each in every),
        limited=sum(each.limited for each in every),
        retries=added([each.retries for each in every]),
        bytes_up=sum(each.bytes_up for each in every),
        bytes_down=sum(each.bytes_down for each in every),
        duration_sum_seconds=sum(each.duration_sum_seconds for each in every),
        dial=_dials([each.dial for each in every]),
        affinity_entries=sum(each.affinity_entries for each in every),
        datagrams=_datagrams([each.datagrams for each in every if each.datagrams is not None]),
        endpoints=endpoints,
        held=sum(each.held for each in every),
        waiting=sum(each.waiting for each in every),
        queued=max(each.queued for each in every),
        ejections=sum(each.ejections for each in every),
    )


def bequest(figures: ListenerFigures, before: ListenerFigures | None) -> ListenerFigures:
    """What stays of the figures of a process that has ended: what it has done. `before` is what stayed of others."""
    endpoints = tuple(
        structs.replace(each, active=0, usable=False, passed_over_seconds=0.0, ejected="") for each in figures.endpoints
    )
    left = structs.replace(figures, active=0, held=0, waiting=0, queued=0, affinity_entries=0, endpoints=endpoints)
    return left if before is None else merged((left,), before)


def with_past(figures: ProcessFigures, past: ProcessFigures | None) -> ProcessFigures:
    """The figures of a process that has taken the place of another: counters go on."""
    if past is None:
        return figures
    return structs.replace(
        figures,
        evicted=added([past.evicted, figures.evicted]),
        handler_failures=added([past.handler_failures, figures.handler_failures]),
        source_fallbacks=added([past.source_fallbacks, figures.source_fallbacks]),
        faulted=past.faulted + figures.faulted,
    )


def one_of(choices: Sequence[Choice]) -> Choice:
    """What is to be said of a client whom any of several processes may accept, each of which would choose so."""
    first = next((each for each in choices if each.endpoint is not None), choices[0])
    endpoints = dict.fromkeys(each.endpoint for each in choices if each.endpoint not in {None, first.endpoint})
    alternatives = tuple(each for each in endpoints if each is not None)
    if not alternatives:
        return first
    reason = f"{first.reason} at one of {len(choices)} data processes, which choose apart"
    return structs.replace(first, reason=reason, alternatives=alternatives)


def added(counts: Iterable[Mapping[Key, int]]) -> dict[Key, int]:
    """The sums of counts by key."""
    total: dict[Key, int] = {}
    for each in counts:
        for key, number in each.items():
            total[key] = total.get(key, 0) + number
    return total


def by_protocol(figures: Iterable[ProcessFigures]) -> dict[Protocol, int]:
    """How many connections and flows all processes have."""
    every = tuple(figures)
    return {Protocol.TCP: sum(each.connections for each in every), Protocol.UDP: sum(each.flows for each in every)}


def _endpoints(
    tables: Sequence[Sequence[EndpointFigures]], dead: Sequence[EndpointFigures]
) -> tuple[EndpointFigures, ...]:
    """Those of any living process, in the order of the first one's. What is known of others alone is of no interest."""
    found: dict[Endpoint, EndpointFigures] = {}
    for table in tables:
        for each in table:
            before = found.get(each.endpoint)
            found[each.endpoint] = each if before is None else _endpoint(before, each)
    for each in dead:
        if each.endpoint in found:
            found[each.endpoint] = _endpoint(found[each.endpoint], each)
    return tuple(found.values())


def _endpoint(one: EndpointFigures, other: EndpointFigures) -> EndpointFigures:
    return structs.replace(
        one,
        usable=one.usable or other.usable,
        active=one.active + other.active,
        total=one.total + other.total,
        failed=one.failed + other.failed,
        bytes_up=one.bytes_up + other.bytes_up,
        bytes_down=one.bytes_down + other.bytes_down,
        dial=_dials((one.dial, other.dial)),
        passed_over_seconds=max(one.passed_over_seconds, other.passed_over_seconds),
        ejected=one.ejected or other.ejected,
    )


def _dials(times: Sequence[DialTimes]) -> DialTimes:
    known = [each for each in times if each.count]
    if len(known) < 2:
        return known[0] if known else times[0]
    counts = tuple(map(sum, zip(*(each.counts for each in known), strict=True)))
    return DialTimes(known[0].bounds, counts, sum(each.sum_seconds for each in known))


def _datagrams(figures: Sequence[DatagramFigures]) -> DatagramFigures | None:
    if not figures:
        return None
    return DatagramFigures(
        *(sum(getattr(each, field) for each in figures) for field in DatagramFigures.__struct_fields__)
    )
