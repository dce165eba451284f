"""What a client's next connection to a Service would meet: the control plane's answer, and the data plane's choice."""

from collections.abc import Sequence

from userproxy.addresses import family_of
from userproxy.admin.items import Explained, ExplainedEndpoint
from userproxy.admin.parameters import Filter
from userproxy.admin.rows import KIND_NAMES, Planes, endpoint_fields, portal_text
from userproxy.errors import UserproxyError
from userproxy.model.cluster import ServiceName, ServicePortName
from userproxy.model.reports import Choice, Query
from userproxy.model.snapshots import Verdict
from userproxy.pace import Pace
from userproxy.proxier.inspect.explanation import Explanation


class NotExplainedError(UserproxyError):
    """The question has no answer. The text is a sentence."""


async def explained(planes: Planes, asked: Filter) -> Explained:
    """The answer for the client, Service, port and portal that are asked for. Raises NotExplainedError."""
    if asked.to is not None and family_of(asked.to.ip) is not family_of(asked.client):
        raise NotExplainedError(f"a client at {asked.client} cannot reach {asked.to.ip}, of another address family")
    found = await _found(planes, asked)
    choice = Choice(None)
    if found.listener is not None:
        try:
            choice = await planes.data.peek(found.listener, asked.client)
        except KeyError:
            raise NotExplainedError(f"{found.name} is just being changed: ask again") from None
    return _item(found, asked.client, choice, await _passed_over(planes, found))


async def _found(planes: Planes, asked: Filter) -> Explanation:
    names = await _names(planes, asked.query)
    if not names:
        raise NotExplainedError(f"no Service {asked.namespace}/{asked.service} is served here")
    meant = [name for name in names if _is_meant(planes, name, asked.port)]
    if not meant:
        raise NotExplainedError(f"{names[0].service} has no port {asked.port}, but {_ports(names)}")
    answers = [await planes.control.explain(name, asked.client, asked.to) for name in meant]
    found = [answer for answer in answers if answer is not None]
    if not found:
        raise NotExplainedError(_no_portal(planes, meant, asked))
    if len(found) > 1:
        raise NotExplainedError(f"say which port of {meant[0].service} is meant: {_ports(meant)}")
    return found[0]


async def service_ports_of(planes: Planes, service: ServiceName) -> list[ServicePortName]:
    """The ports of a Service."""
    return await _names(planes, Query(service.namespace, service.name))


async def _names(planes: Planes, query: Query) -> list[ServicePortName]:
    """The ports of the Services that are asked about, found in slices."""
    pace, found = Pace(), []
    for name in tuple(planes.control.names()):
        if query.admits(name):
            found.append(name)
        await pace.keep()
    return sorted(found)


def _is_meant(planes: Planes, name: ServicePortName, port: str) -> bool:
    """Whether `port`, a name or a number, or empty for any, is that of a service port."""
    if port in ("", name.port):
        return True
    reports = planes.control.service_ports(name)
    return port in {str(portal.portal.port) for report in reports for portal in report.portals}


def _ports(names: Sequence[ServicePortName]) -> str:
    return ", ".join(f"{name.port or '(without a name)'} ({name.protocol})" for name in names)


def _no_portal(planes: Planes, names: Sequence[ServicePortName], asked: Filter) -> str:
    family = family_of(asked.client)
    portals = [
        portal_text(portal.portal, family)
        for name in names
        for report in planes.control.service_ports(name)
        if report.family is family
        for portal in report.portals
    ]
    if not portals:
        return f"{names[0].service} is not served over {family}, which a client at {asked.client} speaks"
    where = asked.to if asked.to is not None and asked.to.port else asked.to and asked.to.ip
    return f"{where} is no portal of {names[0].service}, which has {', '.join(portals)}"


async def _passed_over(planes: Planes, found: Explanation) -> dict[str, tuple[float, str]]:
    """For how many seconds the listener passes over endpoints, and why they are ejected, if they are."""
    if found.listener is None:
        return {}
    name = found.name
    query = Query(name.namespace, name.name, name.port, name.protocol, found.family)
    return {
        str(endpoint.endpoint): (endpoint.passed_over_seconds, endpoint.ejected)
        for figures in await planes.data.listeners(query)
        if figures.listener == found.listener
        for endpoint in figures.endpoints
        if endpoint.passed_over_seconds > 0 or endpoint.ejected
    }


def _item(found: Explanation, client: str, choice: Choice, passed_over: dict[str, tuple[float, str]]) -> Explained:
    lost = found.verdict is Verdict.SERVE and choice.endpoint is None and not found.is_held
    return Explained(
        str(found.name.service),
        found.name.port,
        found.name.protocol,
        client,
        portal_text(found.portal, found.family),
        KIND_NAMES[found.portal.kind],  # type: ignore[arg-type]
        found.driver,
        found.traffic,
        found.policy,
        "local" if found.is_local else "cluster",
        Verdict.REJECT if lost else found.verdict,
        choice.reason if lost else found.reason,
        None if choice.endpoint is None else str(choice.endpoint),
        choice.reason,
        tuple(
            ExplainedEndpoint(*endpoint_fields(report, *passed_over.get(str(report.endpoint), (0.0, ""))))
            for report in found.endpoints
        ),
        choice.source,
        choice.source_address or None,
        choice.source_reason,
        choice.header,
        tuple(map(str, choice.alternatives)),
    )
