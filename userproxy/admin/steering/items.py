"""What is asked of the admin API to be changed, and what it answers, as values: see :mod:`userproxy.admin.items`."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from userproxy.admin.parameters import ENDPOINT_PATTERN

_NAME: Final = r"[-a-z0-9.]{1,253}"
SERVICE_PATTERN: Final = rf"^{_NAME}/{_NAME}$"
MOST_SECONDS: Final = 86_400.0 * 7
"""A week: who drains an endpoint for longer says for no time at all."""

ServiceText = Annotated[str, Meta(pattern=SERVICE_PATTERN)]
EndpointText = Annotated[str, Meta(pattern=ENDPOINT_PATTERN)]


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


class Ended(Struct, frozen=True, gc=False):
    """How many were ended."""

    ended: int


class Closed(Struct, frozen=True, gc=False):
    """How many connections were reset and flows ended."""

    closed: int
