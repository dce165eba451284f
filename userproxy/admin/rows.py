"""The items of the admin API's lists, in order, each with the key that says where a list may go on.

Rows are made in slices between which traffic is served, and no list is ever held as a whole.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Final, TypeAlias

from msgspec import Struct

from userproxy.addresses import IPFamily, host_and_port
from userproxy.admin import figures
from userproxy.admin.items import (
    AttemptItem,
    ConnectionItem,
    DecisionItem,
    EndpointCount,
    EndpointItem,
    PortalItem,
    ProblemItem,
    ServiceItem,
)
from userproxy.admin.parameters import MOST_ITEMS, Filter
from userproxy.admin.steering.fault_table import FaultTable
from userproxy.model.cluster import Protocol, ServiceName, ServicePortName
from userproxy.model.data_plane import DataPlane
from userproxy.model.problems import Problem
from userproxy.model.reports import ConnectionReport, Decision, Query
from userproxy.model.snapshots import Endpoint
from userproxy.model.steering import Steering
from userproxy.model.wanted import Portal, PortalKind
from userproxy.pace import Pace, merged
from userproxy.proxier.drains.table import DrainTable
from userproxy.proxier.inspect.reports import ControlPlane, EndpointReport, PortalReport, ServicePortReport

Rows: TypeAlias = AsyncGenerator[tuple[str, Struct], None]
"""Keys and items."""

_CONNECTIONS_AT_ONCE: Final = 256
KIND_NAMES: Final = {
    PortalKind.CLUSTER_IP: "ClusterIP",
    PortalKind.EXTERNAL_IP: "ExternalIP",
    PortalKind.LOAD_BALANCER_IP: "LoadBalancerIP",
    PortalKind.NODE_PORT: "NodePort",
}
_ANY: Final = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}
_GONE: Final = "gone: no EndpointSlice names it any more, and its connections go on"


class Controls(Struct, frozen=True):
    """What changes are made by."""

    steering: Steering
    drains: DrainTable
    faults: FaultTable


class Planes(Struct, frozen=True):
    """Whom the rows are got from. Without `controls` nothing can be changed."""

    control: ControlPlane
    data: DataPlane
    controls: Controls | None = None


async def services(planes: Planes, asked: Filter) -> Rows:
    """The service ports, by name."""
    query, pace = asked.query, Pace()
    found = await figures.by_service_port(planes.data, query)
    async for name in _names(planes.control, asked):
        reports = planes.control.service_ports(name)
        if reports and _has_endpoint(planes.control, name, query):
            yield _key(name), _service(name, reports, figures.totals(found.get(name, ())))
        await pace.keep()


async def endpoints(planes: Planes, asked: Filter) -> Rows:
    """The endpoints of each service port, by its name, those included that are gone but still have connections."""
    query, pace = asked.query, Pace()
    found = await figures.by_service_port(planes.data, query)
    async for name in _names(planes.control, asked):
        totals = figures.by_endpoint(found.get(name, ()))
        reports = {report.endpoint: report for report in planes.control.endpoints(name)}
        gone = {endpoint: _gone(endpoint) for endpoint, each in totals.items() if each.active}
        for endpoint, report in sorted((gone | reports).items(), key=lambda each: str(each[0])):
            key = _key(name, str(endpoint))
            if query.admits_endpoint(endpoint) and _follows(key, asked.after):
                yield key, _endpoint(name, report, totals.get(endpoint, figures.NOTHING))
            await pace.keep()
        await pace.keep()


async def portals(planes: Planes, asked: Filter) -> Rows:
    """The portals of each service port, by its name."""
    pace = Pace()
    async for name in _names(planes.control, asked):
        found = {
            _key(name, portal_text(portal.portal, report.family)): _portal(report, portal)
            for report in planes.control.service_ports(name)
            for portal in report.portals
        }
        for key in sorted(found):
            if _follows(key, asked.after):
                yield key, found[key]
        await pace.keep()


async def connections(planes: Planes, asked: Filter) -> Rows:
    """The connections and flows, by id."""
    after: int | None = int(asked.after or 0)
    while after is not None:
        page = await planes.data.connections(asked.query, _CONNECTIONS_AT_ONCE, after)
        for report in page.items:
            yield str(report.id), connection(report)
        after = page.next


async def decisions(planes: Planes, asked: Filter) -> Rows:
    """The decisions that are remembered, by time."""
    last = asked.last or MOST_ITEMS
    after = _decision_place(asked.after) if asked.after else None
    pace = Pace()
    for each in await planes.data.decisions(asked.query, last):
        place = (each.time, each.id, each.verdict.value)
        if after is None or place > after:
            yield f"{each.time!r}:{each.id}:{each.verdict}", decision(each)
        await pace.keep()


async def problems(planes: Planes, asked: Filter) -> Rows:
    """What is wanted and not served, by its text."""
    pace = Pace()
    objects = {text: ProblemItem(None, "bad object", text, here=False) for text in planes.control.object_problems()}
    found = {each.text: each for each in planes.control.problems()}
    for text in await merged(objects.keys() | found.keys()):
        problem = found.get(text)
        if text > asked.after and _concerns(None if problem is None else problem.service, asked):
            yield text, objects[text] if problem is None else _problem(problem)
        await pace.keep()


def connection(report: ConnectionReport) -> ConnectionItem:
    """A connection as the API shows it."""
    name = report.listener.service_port
    return ConnectionItem(
        report.id,
        str(name.service),
        name.port,
        name.protocol,
        str(report.client),
        None if report.portal is None else str(report.portal),
        None if report.endpoint is None else str(report.endpoint),
        report.state,
        _seconds(report.age_seconds),
        _seconds(report.idle_seconds),
        report.bytes_up,
        report.bytes_down,
        report.retries,
        _seconds(report.dial_seconds),
        report.source,
        None if report.dialled_from is None else str(report.dialled_from),
        report.faults,
    )


def decision(made: Decision) -> DecisionItem:
    """A decision as the API shows it."""
    name = made.listener.service_port
    return DecisionItem(
        time_text(made.time),
        str(name.service),
        name.port,
        name.protocol,
        str(made.client),
        None if made.portal is None else str(made.portal),
        None if made.endpoint is None else str(made.endpoint),
        made.verdict,
        made.reason,
        tuple(AttemptItem(str(attempt.endpoint), attempt.reason) for attempt in made.tried),
        _seconds(made.duration_seconds),
        made.bytes_up,
        made.bytes_down,
        made.source,
    )


def portal_text(portal: Portal, family: IPFamily) -> str:
    """A portal as address and port: ``10.96.0.10:80``, or ``0.0.0.0:30080`` for a node port on all addresses."""
    return host_and_port(portal.ip or _ANY[family], portal.port)


def time_text(time: float) -> str:
    """Unix time as RFC 3339 in UTC, to the microsecond."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


async def _names(control: ControlPlane, asked: Filter) -> AsyncIterator[ServicePortName]:
    """The service ports that are asked for, in order, beginning with that of the last item of the page before."""
    pace, query = Pace(), asked.query
    first, rest = _place(asked.after) if asked.after else (None, "")
    wanted = []
    for name in tuple(control.names()):
        if query.admits(name) and (first is None or name > first or (rest and name == first)):
            wanted.append(name)
        await pace.keep()
    for name in await merged(wanted):
        yield name
        await pace.keep()


def _key(name: ServicePortName, rest: str = "") -> str:
    return "/".join((name.namespace, name.name, name.port, name.protocol, *([rest] if rest else [])))


def _place(key: str) -> tuple[ServicePortName, str]:
    namespace, name, port, protocol, *rest = key.split("/", 4)
    return ServicePortName(namespace, name, port, Protocol(protocol)), "".join(rest)


def _follows(key: str, after: str) -> bool:
    """Whether an item comes after that with the key `after`, of whose service port it may be."""
    if not after:
        return True
    name, rest = _place(key)
    first, last = _place(after)
    return name != first or rest > last


def _decision_place(key: str) -> tuple[float, int, str]:
    time, number, verdict = key.split(":", 2)
    return float(time), int(number), verdict


def _concerns(service: ServiceName | None, asked: Filter) -> bool:
    if service is None:
        return not asked.namespace and not asked.service
    return asked.namespace in ("", service.namespace) and asked.service in ("", service.name)


def _problem(problem: Problem) -> ProblemItem:
    service = None if problem.service is None else str(problem.service)
    return ProblemItem(service, problem.kind, problem.text, problem.here)


def _has_endpoint(control: ControlPlane, name: ServicePortName, asked: Query) -> bool:
    return asked.endpoint is None or any(asked.admits_endpoint(each.endpoint) for each in control.endpoints(name))


def _service(name: ServicePortName, reports: Iterable[ServicePortReport], totals: figures.Totals) -> ServiceItem:
    reports = tuple(reports)
    return ServiceItem(
        name.namespace,
        name.name,
        name.port,
        name.protocol,
        tuple(portal_text(each.portal, report.family) for report in reports for each in report.portals),
        reports[0].balancer,
        "None" if reports[0].affinity_timeout is None else "ClientIP",
        EndpointCount(sum(report.usable for report in reports), sum(report.endpoints for report in reports)),
        totals.active,
        totals.total,
        totals.failed,
        totals.retried,
        totals.bytes_up,
        totals.bytes_down,
        reports[0].client_address,
        reports[0].sends_proxy,
        reports[0].accepts_proxy,
        reports[0].limits,
        totals.limited,
        reports[0].hold,
        totals.held,
        totals.ejected,
        totals.waiting,
    )


def _gone(endpoint: Endpoint) -> EndpointReport:
    return EndpointReport(
        endpoint, None, None, ready=False, serving=False, terminating=False, usable=False, reason=_GONE
    )


def endpoint_fields(
    report: EndpointReport, passed_over_seconds: float, ejected: str
) -> tuple[str, str | None, str | None, bool, bool, bool, bool, str]:
    """What every item about an endpoint begins with, from its address to the reason why it is not used, or not now."""
    reason = report.reason
    now = ""
    if ejected:
        now = f"ejected, {f'for {passed_over_seconds:.1f} s more' if passed_over_seconds else 'on trial'}: {ejected}"
    elif passed_over_seconds > 0:
        now = f"passed over for {passed_over_seconds:.1f} s after a failed dial"
    if report.usable and now:
        reason = f"{now}; {reason}" if reason else now
    conditions = report.ready, report.serving, report.terminating, report.usable
    return str(report.endpoint), report.node, report.zone, *conditions, reason


def _endpoint(name: ServicePortName, report: EndpointReport, totals: figures.EndpointTotals) -> EndpointItem:
    return EndpointItem(
        str(name.service),
        name.port,
        *endpoint_fields(report, totals.passed_over_seconds, totals.ejected),
        totals.active,
        totals.total,
        totals.failed,
        totals.bytes_up,
        totals.bytes_down,
        totals.dial.quantile(0.5),
        totals.dial.quantile(0.99),
        report.weight,
        bool(totals.ejected),
    )


def _portal(report: ServicePortReport, portal: PortalReport) -> PortalItem:
    return PortalItem(
        portal_text(portal.portal, report.family),
        KIND_NAMES[portal.portal.kind],  # type: ignore[arg-type]
        report.name.protocol,
        str(report.name.service),
        report.name.port,
        portal.local_port,
        report.driver,
        portal.in_sync,
    )


def _seconds(value: float) -> float:
    """To the microsecond: what comes after that is noise, and costs bytes."""
    return round(value, 6)
