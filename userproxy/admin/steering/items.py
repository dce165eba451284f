"""What is asked of the admin API to be changed, and what it answers, as values: see :mod:`userproxy.admin.items`."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from userproxy.admin.parameters import ENDPOINT_PATTERN, NETWORK_PATTERN
from userproxy.model.faults import MOST_FAULT_SECONDS, Effect

_NAME: Final = r"[-a-z0-9.]{1,253}"
SERVICE_PATTERN: Final = rf"^{_NAME}/{_NAME}$"
MOST_SECONDS: Final = 86_400.0 * 7
"""A week: who drains an endpoint for longer says for no time at all."""

ServiceText = Annotated[str, Meta(pattern=SERVICE_PATTERN)]
EndpointText = Annotated[str, Meta(pattern=ENDPOINT_PATTERN)]


NetworkText = Annotated[str, Meta(pattern=NETWORK_PATTERN)]
PortText = Annotated[str, Meta(pattern=r"^[-a-z0-9]{1,63}$")]


class DrainRequest(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Give no new clients to an endpoint of a Service while another one is usable.

    It lasts `for_seconds`, or until it is ended if that is null. The connections that are left `close_after_seconds`
    from now are closed then, none if that is null.
    """

    service: ServiceText
    endpoint: EndpointText
    for_seconds: Annotated[float, Meta(ge=1, le=MOST_SECONDS)] | None = None
    close_after_seconds: Annotated[float, Meta(ge=0, le=MOST_SECONDS)] | None = None


class DrainItem(Struct, frozen=True, gc=False):
    """An endpoint that gets no new clients while another one is usable. It ends at `until`, null if only on request;
    at `closes_at` the connections that are left are closed, null if they are not, or have been."""

    service: str
    endpoint: str
    since: str
    until: str | None
    closes_at: str | None


class FaultRequest(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Have connections of a Service suffer an `effect` for so many seconds.

    `port` is the name or number of one of its ports, `endpoint` one of its endpoints, `client` an address or network
    that clients are from; null is any. Of those `percent` suffer it, by chance; of Drop it is the percentage of
    datagrams. Connections that are open are concerned, too, but for Refuse.
    """

    service: ServiceText
    effect: Effect
    for_seconds: Annotated[float, Meta(ge=1, le=MOST_FAULT_SECONDS)]
    port: PortText | None = None
    endpoint: EndpointText | None = None
    client: NetworkText | None = None
    percent: Annotated[float, Meta(gt=0, le=100)] = 100.0


class FaultItem(Struct, frozen=True, gc=False):
    """A fault in force, until it is cleared, or `until`. It is about the Service's `ports` of these names, or all if
    there are none; about one endpoint and clients of one network, or any where they are null. `text` is what is said of
    connections that suffer it."""

    id: int
    service: str
    ports: tuple[str, ...]
    endpoint: str | None
    client: str | None
    percent: float
    effect: Effect
    text: str
    since: str
    until: str


class Ended(Struct, frozen=True, gc=False):
    """How many were ended."""

    ended: int


class Closed(Struct, frozen=True, gc=False):
    """How many connections were reset and flows ended."""

    closed: int
