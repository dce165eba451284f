"""Faults: what the admin API does about them."""

import ipaddress
import time

from msgspec import structs

from userproxy.admin.explaining import service_ports_of
from userproxy.admin.parameters import Filter
from userproxy.admin.rows import Planes, Rows, time_text
from userproxy.admin.steering.drains import concerns, endpoint_of, ensure_endpoint, service_of
from userproxy.admin.steering.fault_table import NOT_ALLOWED, FaultTable, TooManyFaultsError
from userproxy.admin.steering.items import Ended, FaultItem, FaultRequest
from userproxy.admin.steering.refusals import RefusedError, controls_of
from userproxy.model.cluster import ServiceName, ServicePortName
from userproxy.model.faults import Fault
from userproxy.pace import Pace


async def faults(planes: Planes, asked: Filter) -> Rows:
    """The faults in force, by id."""
    pace, after = Pace(), int(asked.after or 0)
    for fault in planes.controls.faults.current() if planes.controls is not None else ():
        if fault.id > after and concerns(fault.service, fault.endpoint, asked):
            yield str(fault.id), _item(fault)
        await pace.keep()


async def set_fault(planes: Planes, request: FaultRequest) -> FaultItem:
    """Put a fault in force. Raises RefusedError."""
    table = _table(planes)
    service = service_of(request.service)
    endpoint = None if request.endpoint is None else endpoint_of(request.endpoint)
    if endpoint is not None:
        await ensure_endpoint(planes, service, endpoint)
    now = time.monotonic()
    fault = Fault(
        0,
        service,
        request.effect,
        now,
        time.time(),
        now + request.for_seconds,
        await _ports(planes, service, request.port),
        endpoint,
        "" if request.client is None else str(ipaddress.ip_network(request.client.strip(), strict=False)),
        request.percent,
    )
    names = await service_ports_of(planes, service)
    if not any(fault.is_of(name) for name in names):
        protocols = " and ".join(sorted({name.protocol for name in names if _is_meant(fault, name)}))
        raise RefusedError(409, f"{fault.effect}: that does not happen to {protocols} ports, which {service} has")
    try:
        return _item(table.add(fault))
    except TooManyFaultsError as error:
        raise RefusedError(409, str(error)) from error


async def clear_faults(planes: Planes, asked: Filter) -> Ended:
    """End one fault, or all. Raises RefusedError."""
    table = _table(planes)
    if (asked.id is None) is not asked.all:
        raise RefusedError(409, "say which fault is to be cleared: its id, or all")
    ended = table.clear(asked.id)
    if not ended and asked.id is not None:
        raise RefusedError(404, f"there is no fault {asked.id}")
    return Ended(len(ended))


def _table(planes: Planes) -> FaultTable:
    table = controls_of(planes).faults
    if not table.may_change:
        raise RefusedError(403, NOT_ALLOWED)
    return table


async def _ports(planes: Planes, service: ServiceName, port: str | None) -> tuple[str, ...]:
    """The names of the ports of a Service that are meant by a name or a number; none for all. Raises RefusedError."""
    names = await service_ports_of(planes, service)
    if not names:
        raise RefusedError(404, f"no Service {service} is served here")
    if port is None:
        return ()
    found = [name for name in names if port == name.port or port in _numbers(planes, name)]
    if not found:
        listed = ", ".join(f"{name.port or '(without a name)'} ({name.protocol})" for name in names)
        raise RefusedError(404, f"{service} has no port {port}, but {listed}")
    return tuple(name.port for name in found)


def _numbers(planes: Planes, name: ServicePortName) -> set[str]:
    return {str(each.portal.port) for report in planes.control.service_ports(name) for each in report.portals}


def _is_meant(fault: Fault, name: ServicePortName) -> bool:
    return not fault.ports or name.port in fault.ports


def _item(fault: Fault) -> FaultItem:
    return FaultItem(
        fault.id,
        str(fault.service),
        fault.ports,
        None if fault.endpoint is None else str(fault.endpoint),
        fault.client or None,
        fault.percent,
        fault.effect,
        str(structs.replace(fault)),
        time_text(fault.since),
        time_text(fault.since + fault.until - fault.began),
    )
