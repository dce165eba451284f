"""The query parameters of the admin API: what each may be, how its text becomes a value, and how OpenAPI says that."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct, structs

from userproxy.model.cluster import Protocol
from userproxy.model.reports import ConnectionState, Outcome, Query
from userproxy.model.snapshots import Endpoint

MOST_ITEMS: Final = 1_000_000

_NAME: Final = r"[-a-z0-9.]{1,253}"
_MOST_SECONDS: Final = 10**9
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?", re.ASCII)
"""As JSON writes numbers; Python's own float() also takes the digits of other scripts, underscores and blanks."""

_OCTET: Final = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PORT: Final = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_PORT_NAME: Final = r"[-a-z0-9]{1,63}"
CONNECTION_PATTERN: Final = r"[1-9][0-9]{0,17}"
_GROUP: Final = r"[0-9a-fA-F]{1,4}"
_IPV6: Final = "|".join(
    (
        rf"({_GROUP}:){{7}}{_GROUP}",
        rf"({_GROUP}:){{1,7}}:",
        *(rf"({_GROUP}:){{1,{7 - most}}}(:{_GROUP}){{1,{most}}}" for most in range(1, 7)),
        rf":(:{_GROUP}){{1,7}}",
        "::",
    )
)
ENDPOINT_PATTERN: Final = rf"^(({_OCTET}\.){{3}}{_OCTET}|\[({_IPV6})\]):{_PORT}$"
NETWORK_PATTERN: Final = (
    rf"^(({_OCTET}\.){{3}}{_OCTET}(/([12]?[0-9]|3[0-2]))?|({_IPV6})(/([1-9]?[0-9]|1[01][0-9]|12[0-8]))?)$"
)
"""As exact as the parser, so that whoever goes by the OpenAPI document is not refused."""


class BadParameterError(ValueError):
    """A parameter is unknown, or its value is not one. The text is a sentence."""


class Parameter(Struct, frozen=True):
    """One parameter: `parse` raises ValueError with a clause, `schema` is its JSON schema."""

    name: str
    text: str
    parse: Callable[[str], Any]
    schema: Mapping[str, Any]
    repeatable: bool = False
    required: bool = False


class CaptureForm(StrEnum):
    """As what a capture is written."""

    JSON = "json"
    PCAPNG = "pcapng"


class Filter(Struct, frozen=True, gc=False):
    """What a request asks for: a field that is None or empty admits all. `endpoint` with port 0 is any of its ports,
    `id` is the number of a connection, or of a fault where one is meant."""

    namespace: str = ""
    service: str = ""
    endpoint: Endpoint | None = None
    client: str = ""
    protocol: Protocol | None = None
    state: tuple[ConnectionState, ...] = ()
    verdict: tuple[Outcome, ...] = ()
    limit: int | None = None
    after: str = ""
    last: int | None = None
    watch: bool = False
    payload_bytes: int | None = None
    connections: int | None = None
    seconds: float | None = None
    form: CaptureForm = CaptureForm.JSON
    port: str = ""
    id: int | None = None
    all: bool = False
    to: Endpoint | None = None

    @property
    def query(self) -> Query:
        """The same, as the data plane is asked."""
        return Query(
            namespace=self.namespace,
            service=self.service,
            protocol=self.protocol,
            endpoint=self.endpoint,
            client=self.client,
            states=self.state,
            outcomes=self.verdict,
            connection=self.id or 0,
        )


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"is not {what}")
        return text

    return parse


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("is not an IP address") from None
    if "%" in text:
        raise ValueError("is not an IP address without a zone")
    return str(address)


def parse_endpoint(text: str) -> Endpoint:
    """An endpoint; port 0 where there is an address alone. Raises ValueError with a clause."""
    if not re.fullmatch(ENDPOINT_PATTERN, text):
        try:
            return Endpoint(_address(text), 0)
        except ValueError:
            raise ValueError("is not an endpoint such as 10.0.0.1, 10.0.0.1:80 or [fd00::1]:80") from None
    ip, _, port = text.rpartition(":")
    return Endpoint(_address(ip.strip("[]")), int(port))


def _one_of(values: type[StrEnum]) -> Callable[[str], StrEnum]:
    def parse(text: str) -> StrEnum:
        try:
            return values(text)
        except ValueError:
            raise ValueError(f"is not one of {', '.join(values)}") from None

    return parse


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", text) or not 1 <= int(text) <= MOST_ITEMS:
        raise ValueError(f"is not a number from 1 to {MOST_ITEMS}")
    return int(text)


def _connection(text: str) -> int:
    if not re.fullmatch(CONNECTION_PATTERN, text):
        raise ValueError("is not the number of a connection")
    return int(text)


def _bytes(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise ValueError("is not a number of bytes")
    return int(text)


def _seconds(text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else -1.0
    if not 0 <= value <= _MOST_SECONDS:
        raise ValueError(f"is not a number of seconds from 0 to {_MOST_SECONDS}")
    return value


def _switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("is not true or false")
    return text == "true"


_NAME_SCHEMA: Final = {"type": "string", "pattern": f"^{_NAME}$"}
_ENDPOINT_SCHEMA: Final = {
    "type": "string",
    "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}, {"pattern": ENDPOINT_PATTERN}],
}
_COUNT: Final = {"type": "integer", "minimum": 1, "maximum": MOST_ITEMS}

NAMESPACE: Final = Parameter(
    "namespace",
    "Only Services of this namespace.",
    _matching(_NAME, "the name of a namespace"),
    _NAME_SCHEMA,
)
SERVICE: Final = Parameter(
    "service",
    "Only Services of this name.",
    _matching(_NAME, "the name of a Service, without its namespace"),
    _NAME_SCHEMA,
)
PROTOCOL: Final = Parameter(
    "protocol", "Only service ports of this protocol.", _one_of(Protocol), {"enum": sorted(Protocol)}
)
ENDPOINT: Final = Parameter(
    "endpoint",
    "Only what is about this endpoint, or about all endpoints of this address.",
    parse_endpoint,
    _ENDPOINT_SCHEMA,
)
CLIENT: Final = Parameter(
    "client",
    "Only what is about clients of this address.",
    _address,
    {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
)
PORT: Final = Parameter(
    "port",
    "The port of the Service, by name or number. It may be left out where there is only one that fits.",
    _matching(_PORT_NAME, "the name or number of a port"),
    {"type": "string", "pattern": f"^{_PORT_NAME}$"},
)
TO: Final = Parameter(
    "to",
    "The portal, as address or as address and port. A node port is at every address of the node; 0.0.0.0 is any.",
    parse_endpoint,
    _ENDPOINT_SCHEMA,
)
STATE: Final = Parameter(
    "state",
    "Only connections in one of these states.",
    _one_of(ConnectionState),
    {"enum": sorted(ConnectionState)},
    repeatable=True,
)
VERDICT: Final = Parameter(
    "verdict",
    "Only decisions with one of these verdicts.",
    _one_of(Outcome),
    {"enum": sorted(Outcome)},
    repeatable=True,
)
LAST: Final = Parameter(
    "last",
    "Only so many decisions, the newest ones. With `watch` these come first, none of the past without it.",
    _count,
    _COUNT,
)
ID: Final = Parameter("id", "The fault of this number.", _count, _COUNT)
CONNECTION: Final = Parameter(
    "id",
    "Only the connection or flow of this number.",
    _connection,
    {"type": "integer", "minimum": 1, "maximum": 10**18 - 1},
)
ALL: Final = Parameter("all", "Whether all are meant.", _switch, {"type": "boolean"})
LIMIT: Final = Parameter("limit", "At most so many items; `next` leads to the others.", _count, _COUNT)
WATCH: Final = Parameter(
    "watch",
    "Changes as they come, a JSON object a line, instead of a list. `limit` does not count then.",
    _switch,
    {"type": "boolean"},
)


PAYLOAD_BYTES: Final = Parameter(
    "payload_bytes",
    "Only so many bytes of each direction of a connection.",
    _bytes,
    {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
)
CONNECTIONS: Final = Parameter(
    "connections",
    "End when so many connections have been captured from beginning to end.",
    _count,
    _COUNT,
)
SECONDS: Final = Parameter(
    "seconds", "End after so many seconds.", _seconds, {"type": "number", "minimum": 0, "maximum": _MOST_SECONDS}
)
FORM: Final = Parameter("form", "Lines of JSON, or a pcapng file.", _one_of(CaptureForm), {"enum": sorted(CaptureForm)})


def after(pattern: str) -> Parameter:
    """Where a list goes on. What the `next` of a list looks like depends on the list."""
    return Parameter(
        "after",
        "Only what comes after an item: the `next` of the part of the list before.",
        _matching(pattern, "the `next` of this list"),
        {"type": "string", "pattern": f"^{pattern}$"},
    )


def parse(given: Iterable[tuple[str, str]], known: Sequence[Parameter]) -> Filter:
    """What a request's parameters ask for. Raises BadParameterError."""
    by_name = {parameter.name: parameter for parameter in known}
    values: dict[str, Any] = {}
    for name, text in given:
        parameter = by_name.get(name)
        if parameter is None:
            names = f"only {', '.join(by_name)}" if by_name else "none at all"
            raise BadParameterError(f"there is no parameter {name!r} here, {names}")
        if name in values and not parameter.repeatable:
            raise BadParameterError(f"{name} is given twice")
        try:
            value = parameter.parse(text)
        except ValueError as error:
            raise BadParameterError(f"{name}: {text!r} {error}") from None
        values[name] = (*values.get(name, ()), value) if parameter.repeatable else value
    for parameter in known:
        if parameter.required and parameter.name not in values:
            raise BadParameterError(f"{parameter.name} is missing")
    return Filter(**values)


def required(parameter: Parameter) -> Parameter:
    """The parameter, where it cannot be left out."""
    return structs.replace(parameter, required=True)
