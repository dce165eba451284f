"""What listeners and their endpoints have done, summed up over what the admin API shows as one."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from userproxy.model.cluster import ServicePortName
from userproxy.model.data_plane import DataPlane
from userproxy.model.reports import DialTimes, EndpointFigures, ListenerFigures, Query
from userproxy.model.snapshots import Endpoint
from userproxy.pace import Pace


class Totals(Struct, frozen=True, gc=False):
    """The figures of all listeners of a service port. `ejected` are endpoints."""

    active: int = 0
    total: int = 0
    failed: int = 0
    retried: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    limited: int = 0
    held: int = 0
    ejected: int = 0
    waiting: int = 0


class EndpointTotals(Struct, frozen=True, gc=False):
    """The figures of an endpoint, with all listeners of a service port."""

    active: int = 0
    total: int = 0
    failed: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    dial: DialTimes = DialTimes()
    passed_over_seconds: float = 0.0
    ejected: str = ""


NOTHING = EndpointTotals()


async def by_service_port(data: DataPlane, query: Query) -> Mapping[ServicePortName, Sequence[ListenerFigures]]:
    """The figures of the listeners that `query` asks for, by service port."""
    found: dict[ServicePortName, list[ListenerFigures]] = {}
    pace = Pace()
    for figures in await data.listeners(query):
        found.setdefault(figures.listener.service_port, []).append(figures)
        await pace.keep()
    return found


def totals(figures: Iterable[ListenerFigures]) -> Totals:
    """The figures of several listeners together."""
    active = total = failed = retried = up = down = limited = held = waiting = 0
    ejected: set[Endpoint] = set()
    for each in figures:
        active += each.active
        total += each.total
        failed += each.failed
        retried += each.retried
        up += each.bytes_up
        down += each.bytes_down
        limited += each.limited
        held += each.held
        waiting += each.waiting + each.queued
        ejected.update(endpoint.endpoint for endpoint in each.endpoints if endpoint.ejected)
    return Totals(active, total, failed, retried, up, down, limited, held, len(ejected), waiting)


def by_endpoint(figures: Iterable[ListenerFigures]) -> dict[Endpoint, EndpointTotals]:
    """The figures of the endpoints of several listeners."""
    found: dict[Endpoint, EndpointTotals] = {}
    for listener in figures:
        for each in listener.endpoints:
            found[each.endpoint] = _plus(found.get(each.endpoint, NOTHING), each)
    return found


def _plus(one: EndpointTotals, other: EndpointFigures) -> EndpointTotals:
    return EndpointTotals(
        one.active + other.active,
        one.total + other.total,
        one.failed + other.failed,
        one.bytes_up + other.bytes_up,
        one.bytes_down + other.bytes_down,
        summed(one.dial, other.dial),
        max(one.passed_over_seconds, other.passed_over_seconds),
        one.ejected or other.ejected,
    )


def summed(one: DialTimes, other: DialTimes) -> DialTimes:
    """The dials of both, which have the same bounds unless one has none."""
    if not one.counts or not other.counts:
        return other if not one.counts else one
    counts = tuple(mine + its for mine, its in zip(one.counts, other.counts, strict=True))
    return DialTimes(one.bounds, counts, one.sum_seconds + other.sum_seconds)
