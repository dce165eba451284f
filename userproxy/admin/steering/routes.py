"""What the admin API changes: for each path and method what it takes, what it answers, and who does it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from userproxy.admin.parameters import (
    ALL,
    CLIENT,
    CONNECTION,
    ENDPOINT,
    ID,
    NAMESPACE,
    PROTOCOL,
    SERVICE,
    Parameter,
    required,
)
from userproxy.admin.rows import Planes
from userproxy.admin.steering import drains, faults
from userproxy.admin.steering.items import Closed, DrainItem, DrainRequest, Ended, FaultItem, FaultRequest


class WriteRoute(Struct, frozen=True):
    """A change. `perform` gets the body, made of `body`, or the query's parameters where that is None.

    `refusals` are the statuses, beside 400 and 503, by which it may be refused, and why.
    """

    path: str
    method: str
    operation: str
    text: str
    answer: type[Struct]
    perform: Callable[[Planes, Any], Awaitable[Struct]]
    parameters: tuple[Parameter, ...] = ()
    body: type[Struct] | None = None
    refusals: Mapping[int, str] = {}


_NO_CONTROLS: Final = {403: "Nothing can be changed here."}

WRITES: Final[tuple[WriteRoute, ...]] = (
    WriteRoute(
        "drains",
        "POST",
        "drain",
        "Give no new clients to an endpoint while another one is usable, or change the terms of that.",
        DrainItem,
        drains.drain,
        body=DrainRequest,
        refusals={
            **_NO_CONTROLS,
            404: "There is no such Service or endpoint.",
            409: "The times contradict each other, or there are too many drains.",
        },
    ),
    WriteRoute(
        "drains",
        "DELETE",
        "undrain",
        "End the drain of an endpoint, or of all endpoints of a Service.",
        Ended,
        drains.undrain,
        (required(NAMESPACE), required(SERVICE), ENDPOINT),
        refusals={**_NO_CONTROLS, 404: "There is no such drain."},
    ),
    WriteRoute(
        "faults",
        "POST",
        "setFault",
        "Have connections of a Service suffer a fault for some time. Needs --allow-faults.",
        FaultItem,
        faults.set_fault,
        body=FaultRequest,
        refusals={
            403: "Faults are not allowed here.",
            404: "There is no such Service, port or endpoint.",
            409: "The fault cannot happen to what is meant, or there are too many.",
        },
    ),
    WriteRoute(
        "faults",
        "DELETE",
        "clearFaults",
        "End a fault, or all.",
        Ended,
        faults.clear_faults,
        (ID, ALL),
        refusals={
            403: "Faults are not allowed here.",
            404: "There is no such fault.",
            409: "Neither a fault nor all are meant.",
        },
    ),
    WriteRoute(
        "connections",
        "DELETE",
        "closeConnections",
        "Reset TCP connections, and end UDP flows: one by its id, or those of a client, an endpoint or a Service.",
        Closed,
        drains.close_connections,
        (NAMESPACE, SERVICE, PROTOCOL, ENDPOINT, CLIENT, CONNECTION),
        refusals={**_NO_CONTROLS, 409: "Neither id nor client nor endpoint nor service is given."},
    ),
)
