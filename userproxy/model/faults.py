"""Faults that connections are made to have, in the words of toxiproxy."""

from enum import StrEnum
from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct

from userproxy.durations import format_duration
from userproxy.model.cluster import Protocol, ServiceName, ServicePortName
from userproxy.model.snapshots import Endpoint
from userproxy.sizes import format_rate, format_size

MOST_FAULTS: Final = 100
"""At a time: each is looked at for each new connection of its Service."""


MOST_LATENCY_SECONDS: Final = 60.0
MOST_FAULT_SECONDS: Final = 86_400.0
MOST_RESET_BYTES: Final = 10**12
MOST_RATE: Final = 10**10


class Direction(StrEnum):
    """Which bytes or datagrams are concerned: those to the endpoint, those to the client, or all."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


class Latency(Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="latency"):
    """What passes comes `seconds` later, give or take `jitter_seconds`, and in its order."""

    seconds: Annotated[float, Meta(ge=0, le=MOST_LATENCY_SECONDS)]
    jitter_seconds: Annotated[float, Meta(ge=0, le=MOST_LATENCY_SECONDS)] = 0.0
    direction: Direction = Direction.DOWN

    def __str__(self) -> str:
        jitter = f" ± {format_duration(self.jitter_seconds)}" if self.jitter_seconds else ""
        return f"latency {format_duration(self.seconds)}{jitter}{_way(self.direction, Direction.DOWN)}"


class Refuse(Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="refuse"):
    """New connections are reset as soon as there is an endpoint for them. For TCP."""

    def __str__(self) -> str:
        return "refuse"


class Blackhole(Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="blackhole"):
    """Nothing passes. Bytes of TCP wait where they are, datagrams are lost."""

    def __str__(self) -> str:
        return "blackhole"


class ResetAfterBytes(
    Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="reset-after-bytes"
):
    """A connection is reset once so many bytes have passed, both ways together. For TCP."""

    bytes: Annotated[int, Meta(ge=1, le=MOST_RESET_BYTES)]

    def __str__(self) -> str:
        return f"reset after {format_size(self.bytes)}"


class ResetAfterSeconds(
    Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="reset-after-seconds"
):
    """A connection is reset so many seconds after it has begun, or the fault has. For TCP."""

    seconds: Annotated[float, Meta(gt=0, le=MOST_FAULT_SECONDS)]

    def __str__(self) -> str:
        return f"reset after {format_duration(self.seconds)}"


class Bandwidth(Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="bandwidth"):
    """At most so many bytes a second pass of a connection, each way. For TCP."""

    bytes_per_second: Annotated[int, Meta(ge=1, le=MOST_RATE)]

    def __str__(self) -> str:
        return f"bandwidth {format_rate(self.bytes_per_second)}"


class Drop(Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="drop"):
    """So many percent of the datagrams are lost as the fault says. For UDP."""

    direction: Direction = Direction.BOTH

    def __str__(self) -> str:
        return f"drop{_way(self.direction, Direction.BOTH)}"


Effect: TypeAlias = Latency | Refuse | Blackhole | ResetAfterBytes | ResetAfterSeconds | Bandwidth | Drop

OF_TCP: Final = (Latency, Refuse, Blackhole, ResetAfterBytes, ResetAfterSeconds, Bandwidth)
OF_UDP: Final = (Latency, Blackhole, Drop)


class Fault(Struct, frozen=True, gc=False):
    """What connections of a Service are made to suffer.

    It concerns all ports of the Service if `ports` is empty, else those of these names; all endpoints if `endpoint` is
    None, all clients if `client`, a network, is empty. Of the connections that it concerns `percent` suffer it; of
    those of Drop all, but only so many of their datagrams. It is over at `until`, which is of CLOCK_MONOTONIC as
    `began` is; `since` is Unix time.
    """

    id: int
    service: ServiceName
    effect: Effect
    began: float
    since: float
    until: float
    ports: tuple[str, ...] = ()
    endpoint: Endpoint | None = None
    client: str = ""
    percent: float = 100.0

    def is_of(self, name: ServicePortName) -> bool:
        """Whether it is about a service port, and can happen to its protocol."""
        kinds = OF_UDP if name.protocol is Protocol.UDP else OF_TCP
        is_meant = self.service == name.service and (not self.ports or name.port in self.ports)
        return is_meant and isinstance(self.effect, kinds)

    def __str__(self) -> str:
        share = f" of {self.percent:g} %" if self.percent < 100 else ""
        return f"fault {self.id}: {self.effect}{share}"


def _way(direction: Direction, usual: Direction) -> str:
    return "" if direction is usual else f" {direction}"
