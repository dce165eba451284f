"""A Service's own settings: its annotations under ``userproxy.io/``. Pure.

Where one cannot be used, the Service is served as if it were not there.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from userproxy.cluster.objects.validation import show
from userproxy.cluster.objects.weights import HIGHEST_WEIGHT
from userproxy.durations import parse_duration
from userproxy.model import BalancerName, ClientAddress, Ejection, Limits, Overflow, ProxyProtocol

PREFIX = "userproxy.io/"
ON_ENDPOINT_REMOVAL = f"{PREFIX}on-endpoint-removal"
UDP_TIMEOUT = f"{PREFIX}udp-timeout"
CLIENT_ADDRESS = f"{PREFIX}client-address"
PROXY_PROTOCOL = f"{PREFIX}proxy-protocol"
ACCEPT_PROXY_PROTOCOL = f"{PREFIX}accept-proxy-protocol"
BALANCER = f"{PREFIX}balancer"
HINT_WEIGHT = f"{PREFIX}hint-weight"
EJECT = f"{PREFIX}eject"
MAX_CONNECTIONS = f"{PREFIX}max-connections"
OVERFLOW = f"{PREFIX}overflow"
CONNECTION_RATE = f"{PREFIX}connection-rate"
IDLE_TIMEOUT = f"{PREFIX}idle-timeout"
HOLD = f"{PREFIX}hold"
IDLED_AT = "idling.alpha.openshift.io/idled-at"
"""OpenShift's mark of a Service that was scaled to zero, and is to be woken by its first client."""

MOST_COMPLAINTS: Final = 20
"""So many of a Service's annotations are named that cannot be used: each is a line in the log, and an event."""

_SHORTEST_TIMEOUT = 1.0
_LONGEST_TIMEOUT = 86400.0
_SHORTEST_HOLD = 1.0
_LONGEST_HOLD = 3600.0
_HOLD_IDLED: Final = 120.0
"""As long as OpenShift's own proxy holds clients."""
_SHORTEST_DRAIN = 1.0
_LONGEST_DRAIN = 3600.0
_SHORTEST_EJECTION = 5.0
_LONGEST_EJECTION = 3600.0
_MOST_FAILURES = 1000
_BALANCER: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_EJECTION: Final = re.compile(r"\s*([0-9]{1,4})\s+failures?\s*,\s*(\S+)\s*")
_MOST_CONNECTIONS = 1_000_000
_UNITS: Final = {"s": 1.0, "m": 60.0}


class ServiceOptions(Struct, frozen=True):
    """What the annotations say.

    ``close_removed_after`` is seconds, None to leave connections alone; ``udp_timeout`` is seconds or None;
    ``client_address`` is None where the proxy's own setting counts. ``sends_proxy`` and ``accepts_proxy`` are versions
    of the PROXY protocol, None for none. ``balancer`` is the name of one; ``hint_weight`` is how many times as much
    endpoints get that are hinted to us, None for everything; ``ejection`` is when endpoints that fail are left
    out. ``max_connections``, ``overflow``, ``connection_rate``, a
    second, ``idle_timeout`` and ``hold``, in seconds, are None without an annotation. ``complaints`` has a sentence for
    each annotation that cannot be used, MOST_COMPLAINTS at most, and one for how many more there are.
    """

    close_removed_after: float | None = None
    udp_timeout: float | None = None
    client_address: ClientAddress | None = None
    sends_proxy: ProxyProtocol | None = None
    accepts_proxy: ProxyProtocol | None = None
    balancer: str = BalancerName.ROUND_ROBIN
    hint_weight: int | None = None
    ejection: Ejection | None = None
    max_connections: int | None = None
    overflow: Overflow | None = None
    connection_rate: float | None = None
    idle_timeout: float | None = None
    hold: float | None = None
    complaints: tuple[str, ...] = ()

    @property
    def limits(self) -> Limits | None:
        """Those of clients; None where there are none."""
        most, rate, idle = self.max_connections, self.connection_rate, self.idle_timeout
        if most is None and rate is None and idle is None:
            return None
        return Limits(most, self.overflow or Overflow.WAIT, rate, idle)


def read_annotations(name: str, annotations: Mapping[str, object]) -> ServiceOptions:
    """The options in the annotations of a Service. Every complaint begins with its `name`.

    ``on-endpoint-removal`` is ``close``, ``keep``, or ``drain:`` with one of Go's durations between 1s and 1h;
    ``udp-timeout`` is one of Go's durations between 1s and 24h; ``client-address`` is one of ClientAddress;
    ``proxy-protocol`` and ``accept-proxy-protocol`` are one of ProxyProtocol; ``balancer`` is the name of one;
    ``hint-weight`` is a number between 1 and 1000; ``eject`` is such as ``3 failures, 30s``;
    ``max-connections`` is a number up to a million, ``overflow`` one of Overflow, ``connection-rate`` a number a second
    or minute, ``idle-timeout`` a duration as ``udp-timeout``, ``hold`` one between 1s and 1h; a Service that OpenShift
    has idled holds clients without it. Null is the same as no annotation. Never raises.
    """
    found: dict[str, Any] = {} if annotations.get(IDLED_AT) is None else {"hold": _HOLD_IDLED}
    complaints: list[str] = []
    for key, value in annotations.items():
        if not key.startswith(PREFIX) or value is None:
            continue
        try:
            field, read = _KNOWN[key]
            found[field] = read(value)
        except KeyError:
            complaints.append(f"{_named(name, key)}: there is no such setting, only {_ALL}")
        except ValueError as error:
            complaints.append(f"{_named(name, key)}: {show(value)} {error}")
    if (more := len(complaints) - MOST_COMPLAINTS) > 0:
        complaints[MOST_COMPLAINTS:] = [f"{name}: {more} more annotations cannot be used"]
    return ServiceOptions(**found, complaints=tuple(complaints))


def _named(name: str, key: str) -> str:
    return f"{name}: annotation {key if key.isprintable() else show(key)}"


def _close_removed_after(value: object) -> float | None:
    if value == "keep":
        return None
    if value == "close":
        return 0.0
    word, _, text = value.partition(":") if isinstance(value, str) else ("", "", "")
    try:
        seconds = parse_duration(text) if word == "drain" else 0.0
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_DRAIN <= seconds <= _LONGEST_DRAIN:
        raise ValueError("is not one of keep, close, and drain: with a duration between 1s and 1h, such as drain:30s")
    return seconds


def _max_connections(value: object) -> int:
    number = int(value) if isinstance(value, str) and _is_number(value) else 0
    if not 1 <= number <= _MOST_CONNECTIONS:
        raise ValueError(f"is not a number of connections between 1 and {_MOST_CONNECTIONS}, in quotes")
    return number


def _connection_rate(value: object) -> float:
    number, _, unit = value.partition("/") if isinstance(value, str) else ("", "", "")
    if unit not in _UNITS or not _is_number(number) or not 1 <= int(number) <= _MOST_CONNECTIONS:
        raise ValueError("is not a number of connections a second or a minute, such as 100/s or 30/m")
    return int(number) / _UNITS[unit]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_CONNECTIONS))


def _timeout(value: object) -> float:
    try:
        seconds = parse_duration(value) if isinstance(value, str) else 0.0
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_TIMEOUT <= seconds <= _LONGEST_TIMEOUT:
        raise ValueError("is not a duration such as 30s or 5m, between 1s and 24h")
    return seconds


def _hold(value: object) -> float:
    try:
        seconds = parse_duration(value) if isinstance(value, str) else 0.0
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_HOLD <= seconds <= _LONGEST_HOLD:
        raise ValueError("is not a duration such as 120s, between 1s and 1h")
    return seconds


def _weight(value: object) -> int:
    found = (
        int(value)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(HIGHEST_WEIGHT))
        else 0
    )
    if not 1 <= found <= HIGHEST_WEIGHT:
        raise ValueError(f"is not a number between 1 and {HIGHEST_WEIGHT}, in quotes")
    return found


def _balancer(value: object) -> str:
    """The name of one; whether there is one of that name is not known here."""
    if not isinstance(value, str) or not _BALANCER.fullmatch(value):
        raise ValueError(f"is not one of {', '.join(BalancerName)}, nor the name of another balancer")
    return value


def _ejection(value: object) -> Ejection:
    found = _EJECTION.fullmatch(value) if isinstance(value, str) else None
    try:
        failures, seconds = (int(found[1]), parse_duration(found[2])) if found is not None else (0, 0.0)
    except ValueError:
        failures, seconds = 0, 0.0
    if not 1 <= failures <= _MOST_FAILURES or not _SHORTEST_EJECTION <= seconds <= _LONGEST_EJECTION:
        raise ValueError(
            'is not a number of failures between 1 and 1000 and a duration between 5s and 1h, such as "3 failures, 30s"'
        )
    return Ejection(failures, seconds)


def _one_of(values: type[StrEnum]) -> Callable[[object], StrEnum]:
    def read(value: object) -> StrEnum:
        try:
            return values(value if isinstance(value, str) else "")
        except ValueError:
            raise ValueError(f"is not one of {', '.join(values)}") from None

    return read


_KNOWN: Final[Mapping[str, tuple[str, Callable[[object], object]]]] = {
    ON_ENDPOINT_REMOVAL: ("close_removed_after", _close_removed_after),
    UDP_TIMEOUT: ("udp_timeout", _timeout),
    CLIENT_ADDRESS: ("client_address", _one_of(ClientAddress)),
    PROXY_PROTOCOL: ("sends_proxy", _one_of(ProxyProtocol)),
    ACCEPT_PROXY_PROTOCOL: ("accepts_proxy", _one_of(ProxyProtocol)),
    BALANCER: ("balancer", _balancer),
    HINT_WEIGHT: ("hint_weight", _weight),
    EJECT: ("ejection", _ejection),
    MAX_CONNECTIONS: ("max_connections", _max_connections),
    OVERFLOW: ("overflow", _one_of(Overflow)),
    CONNECTION_RATE: ("connection_rate", _connection_rate),
    IDLE_TIMEOUT: ("idle_timeout", _timeout),
    HOLD: ("hold", _hold),
}
"""For each annotation, the field of ServiceOptions, and what reads its value or raises ValueError with a clause."""

_ALL: Final = ", ".join(_KNOWN)
