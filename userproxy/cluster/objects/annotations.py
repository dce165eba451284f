"""A Service's own settings: its annotations under ``userproxy.io/``. Pure.

Where one cannot be used, the Service is served as if it were not there.
"""

from collections.abc import Mapping

from msgspec import Struct

from userproxy.cluster.objects.validation import show
from userproxy.durations import parse_duration

PREFIX = "userproxy.io/"
ON_ENDPOINT_REMOVAL = f"{PREFIX}on-endpoint-removal"
UDP_TIMEOUT = f"{PREFIX}udp-timeout"

_SHORTEST_UDP_TIMEOUT = 1.0
_LONGEST_UDP_TIMEOUT = 86400.0


class ServiceOptions(Struct, frozen=True):
    """What the annotations say. ``udp_timeout`` is seconds or None; ``complaints`` has a sentence for each bad one."""

    close_removed: bool = False
    udp_timeout: float | None = None
    complaints: tuple[str, ...] = ()


def read_annotations(name: str, annotations: Mapping[str, object]) -> ServiceOptions:
    """The options in the annotations of a Service. Every complaint begins with its `name`.

    ``on-endpoint-removal`` is ``close`` or ``keep``; ``udp-timeout`` is one of Go's durations between 1s and 24h. Null
    is the same as no annotation. Never raises.
    """
    close_removed = False
    udp_timeout: float | None = None
    complaints: list[str] = []
    for key, value in annotations.items():
        if not key.startswith(PREFIX) or value is None:
            continue
        complaint = ""
        if key == ON_ENDPOINT_REMOVAL:
            close_removed = value == "close"
            if value not in ("close", "keep"):
                complaint = f"{show(value)} is not one of close, keep"
        elif key == UDP_TIMEOUT:
            udp_timeout = _udp_timeout(value)
            if udp_timeout is None:
                complaint = f"{show(value)} is not a duration such as 30s or 5m, between 1s and 24h"
        else:
            complaint = f"there is no such setting, only {ON_ENDPOINT_REMOVAL} and {UDP_TIMEOUT}"
        if complaint:
            complaints.append(f"{name}: annotation {key if key.isprintable() else show(key)}: {complaint}")
    return ServiceOptions(close_removed, udp_timeout, tuple(complaints))


def _udp_timeout(value: object) -> float | None:
    try:
        seconds = parse_duration(value) if isinstance(value, str) else 0.0
    except ValueError:
        return None
    return seconds if _SHORTEST_UDP_TIMEOUT <= seconds <= _LONGEST_UDP_TIMEOUT else None
