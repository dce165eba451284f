"""Drains and closed connections: what the admin API does about them."""

import asyncio
import time
from typing import Final

from userproxy.admin.explaining import service_ports_of
from userproxy.admin.parameters import Filter, parse_endpoint
from userproxy.admin.rows import Planes, Rows, time_text
from userproxy.admin.steering.items import Closed, DrainItem, DrainRequest, Ended
from userproxy.admin.steering.refusals import RefusedError, controls_of
from userproxy.model.cluster import ServiceName
from userproxy.model.snapshots import Endpoint
from userproxy.model.steering import CLOSED_ON_REQUEST, Drain
from userproxy.pace import Pace
from userproxy.proxier.drains.table import TooManyDrainsError

_MOST_LISTED: Final = 10


async def drains(planes: Planes, asked: Filter) -> Rows:
    """The drains by request, by Service and endpoint."""
    pace = Pace()
    for drain in planes.controls.drains.all() if planes.controls is not None else ():
        key = f"{drain.service}/{drain.endpoint}"
        if key > asked.after and concerns(drain.service, drain.endpoint, asked):
            yield key, _item(drain)
        await pace.keep()


def concerns(service: ServiceName, endpoint: Endpoint | None, asked: Filter) -> bool:
    """Whether something about a Service and one of its endpoints, or all, is asked for."""
    return (
        asked.namespace in ("", service.namespace)
        and asked.service in ("", service.name)
        and (endpoint is None or asked.query.admits_endpoint(endpoint))
    )


async def drain(planes: Planes, request: DrainRequest) -> DrainItem:
    """Begin a drain, or go on with one on other terms. Raises RefusedError."""
    table = controls_of(planes).drains
    seconds, close_after = request.for_seconds, request.close_after_seconds
    if seconds is not None and close_after is not None and close_after >= seconds:
        text = f"close_after_seconds: {close_after:g} is not less than for_seconds, after which the drain is over"
        raise RefusedError(409, text)
    service, endpoint = service_of(request.service), endpoint_of(request.endpoint)
    await ensure_endpoint(planes, service, endpoint)
    now = asyncio.get_running_loop().time()
    until = None if seconds is None else now + seconds
    began = Drain(service, endpoint, now, time.time(), until, None if close_after is None else now + close_after)
    try:
        table.put(began)
    except TooManyDrainsError as error:
        raise RefusedError(409, str(error)) from error
    return _item(began)


async def undrain(planes: Planes, asked: Filter) -> Ended:
    """End the drain of an endpoint of a Service, or of all its endpoints. Raises RefusedError if there is none."""
    service, table = ServiceName(asked.namespace, asked.service), controls_of(planes).drains
    meant = [each for each in table.of(service) if asked.query.admits_endpoint(each)]
    if not meant:
        which = "no endpoint" if asked.endpoint is None else f"no endpoint {_text(asked.endpoint)}"
        raise RefusedError(404, f"{which} of {service} is drained")
    return Ended(sum(len(table.end(service, each)) for each in meant))


async def close_connections(planes: Planes, asked: Filter) -> Closed:
    """Reset connections, and end flows. Raises RefusedError where nothing says which."""
    steering, query = controls_of(planes).steering, asked.query
    if not (query.connection or query.client or query.service or query.endpoint):
        raise RefusedError(409, "say which connections are to be closed: by id, client, endpoint or service")
    return Closed(await steering.close_connections(query, CLOSED_ON_REQUEST))


async def ensure_endpoint(planes: Planes, service: ServiceName, endpoint: Endpoint) -> None:
    """Raises RefusedError where a Service is not served here, or has no such endpoint."""
    names = await service_ports_of(planes, service)
    if not names:
        raise RefusedError(404, f"no Service {service} is served here")
    found = sorted({report.endpoint for name in names for report in planes.control.endpoints(name)})
    if endpoint not in found:
        more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
        listed = f", but {', '.join(map(str, found[:_MOST_LISTED]))}{more}" if found else ", and no other"
        raise RefusedError(404, f"{service} has no endpoint {endpoint}{listed}")


def service_of(text: str) -> ServiceName:
    """The Service that a text of SERVICE_PATTERN names."""
    namespace, _, name = text.strip().partition("/")
    return ServiceName(namespace, name)


def endpoint_of(text: str) -> Endpoint:
    """The endpoint that a text of ENDPOINT_PATTERN names."""
    return parse_endpoint(text.strip())


def _text(endpoint: Endpoint) -> str:
    return str(endpoint) if endpoint.port else endpoint.ip


def _item(drain: Drain) -> DrainItem:
    def moment(at: float | None) -> str | None:
        return None if at is None else time_text(drain.since + at - drain.began)

    times = time_text(drain.since), moment(drain.until), moment(drain.closes_at)
    return DrainItem(str(drain.service), str(drain.endpoint), *times)
