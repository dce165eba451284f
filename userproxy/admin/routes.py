"""What the admin API has: for each path under /v1 what it answers, which parameters it takes, and who makes it."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from msgspec import Struct

from userproxy.admin import items, rows, watches
from userproxy.admin.parameters import (
    CLIENT,
    CONNECTION,
    CONNECTIONS,
    ENDPOINT,
    FORM,
    LAST,
    LIMIT,
    NAMESPACE,
    PAYLOAD_BYTES,
    PORT,
    PROTOCOL,
    SECONDS,
    SERVICE,
    STATE,
    TO,
    VERDICT,
    WATCH,
    Filter,
    Parameter,
    after,
    required,
)
from userproxy.admin.rows import Planes, Rows
from userproxy.admin.steering import drains, faults
from userproxy.admin.steering.items import DrainItem, FaultItem
from userproxy.admin.watches import Changes

_SERVICE_KEY: Final = r"[-a-z0-9.]{1,253}/[-a-z0-9.]{1,253}"
_SERVICE_PORT_KEY: Final = rf"{_SERVICE_KEY}/[-a-z0-9]{{0,63}}/(TCP|UDP|SCTP)"
_ADDRESS_KEY: Final = rf"{_SERVICE_PORT_KEY}/[\[\]0-9a-fA-F.:]{{1,60}}"


class ListRoute(Struct, frozen=True):
    """A list, and the watch of it."""

    path: str
    text: str
    item: type[Struct]
    parameters: tuple[Parameter, ...]
    rows: Callable[[Planes, Filter], Rows]
    changes: Callable[[Planes, Filter], Changes]


class ObjectRoute(Struct, frozen=True):
    """One object."""

    path: str
    text: str
    answer: type[Struct] | None
    """None for what has a form of its own."""
    parameters: tuple[Parameter, ...] = ()
    may_be_missing: bool = False
    """Whether what is asked about may not be there."""


class CaptureRoute(Struct, frozen=True):
    """The bytes of connections, as they pass."""

    path: str
    text: str
    parameters: tuple[Parameter, ...]


Route: TypeAlias = ListRoute | ObjectRoute | CaptureRoute

LISTS: Final = (
    ListRoute(
        "services",
        "The ports of Services that are served here, by name. With `endpoint` those that have it.",
        items.ServiceItem,
        (NAMESPACE, SERVICE, PROTOCOL, ENDPOINT, LIMIT, after(_SERVICE_PORT_KEY), WATCH),
        rows.services,
        watches.looked_for(rows.services),
    ),
    ListRoute(
        "endpoints",
        "The endpoints of each port of a Service, and why they are used or not.",
        items.EndpointItem,
        (NAMESPACE, SERVICE, PROTOCOL, ENDPOINT, LIMIT, after(_ADDRESS_KEY), WATCH),
        rows.endpoints,
        watches.looked_for(rows.endpoints),
    ),
    ListRoute(
        "connections",
        "TCP connections and UDP flows, by id.",
        items.ConnectionItem,
        (NAMESPACE, SERVICE, PROTOCOL, ENDPOINT, CLIENT, CONNECTION, STATE, LIMIT, after(r"[0-9]{1,18}"), WATCH),
        rows.connections,
        watches.connections,
    ),
    ListRoute(
        "portals",
        "The addresses through which Services are reached, and whether they stand.",
        items.PortalItem,
        (NAMESPACE, SERVICE, PROTOCOL, LIMIT, after(_ADDRESS_KEY), WATCH),
        rows.portals,
        watches.looked_for(rows.portals),
    ),
    ListRoute(
        "decisions",
        "What became of clients and why, by time. The last ones are remembered, some of each port of a Service.",
        items.DecisionItem,
        (
            NAMESPACE,
            SERVICE,
            PROTOCOL,
            ENDPOINT,
            CLIENT,
            VERDICT,
            LAST,
            LIMIT,
            after(r"[0-9]{1,12}(\.[0-9]{1,9})?:[0-9]{1,18}:[-a-z]{1,20}"),
            WATCH,
        ),
        rows.decisions,
        watches.decisions,
    ),
    ListRoute(
        "drains",
        "The endpoints that get no new clients by request, by Service and endpoint.",
        DrainItem,
        (NAMESPACE, SERVICE, ENDPOINT, LIMIT, after(rf"{_SERVICE_KEY}/[\[\]0-9a-fA-F.:]{{1,60}}"), WATCH),
        drains.drains,
        watches.looked_for(drains.drains),
    ),
    ListRoute(
        "faults",
        "The faults that connections are made to suffer, by id.",
        FaultItem,
        (NAMESPACE, SERVICE, ENDPOINT, LIMIT, after(r"[0-9]{1,18}"), WATCH),
        faults.faults,
        watches.looked_for(faults.faults),
    ),
    ListRoute(
        "problems",
        "What is wanted and not served, or endangered.",
        items.ProblemItem,
        (NAMESPACE, SERVICE, LIMIT, after(r"[^\x00-\x1f]{0,2000}"), WATCH),
        rows.problems,
        watches.looked_for(rows.problems),
    ),
)

OBJECTS: Final = (
    ObjectRoute("configuration", "The configuration in force.", items.Configuration),
    ObjectRoute("version", "The program that answers.", items.Version),
    ObjectRoute("status", "Whether everything is as it should be, and since when not.", items.Status),
    ObjectRoute("diff", "What is wanted against what the kernel has: its rules are read for that.", items.Differences),
    ObjectRoute(
        "explain",
        "What a client's next connection to a Service would meet, and why. Changes nothing.",
        items.Explained,
        (required(NAMESPACE), required(SERVICE), required(CLIENT), PORT, PROTOCOL, TO),
        may_be_missing=True,
    ),
    ObjectRoute("openapi.json", "This document.", None),
)


CAPTURE: Final = CaptureRoute(
    "capture",
    "The bytes of connections and flows as they pass, until nobody reads. Needs --allow-capture.",
    (NAMESPACE, SERVICE, PROTOCOL, ENDPOINT, CLIENT, PAYLOAD_BYTES, CONNECTIONS, SECONDS, FORM),
)

ROUTES: Final[tuple[Route, ...]] = (*LISTS, *OBJECTS, CAPTURE)


def parameters_of(route: Route) -> tuple[Parameter, ...]:
    """The query parameters that a route takes."""
    return route.parameters


def answer_types(route: ListRoute) -> tuple[Any, Any]:
    """What a list answers: a page, and the lines of its watch but for the last of one that is cut off."""
    return items.Page[route.item], items.Change[route.item]  # type: ignore[name-defined]
