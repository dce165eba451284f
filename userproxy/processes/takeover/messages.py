"""What predecessor and successor say to each other.

All but `Things` are the same in every release that has the same PROTOCOL; what `Things` are made of has a number of its
own.
"""

from typing import Final, TypeAlias

from msgspec import Raw, Struct

PROTOCOL: Final = 1


class Ask(Struct, frozen=True, tag=True):
    """From the successor, first: what it understands. `setup` names its portal drivers and the like.

    `values` is the number of the values that connections are described by in its release, and `version` that release.
    """

    protocol: int
    values: int
    version: str
    setup: str


class Refusal(Struct, frozen=True, tag=True):
    """From either, last: it does not go on, and why. A clause."""

    reason: str


class Offer(Struct, frozen=True, tag=True):
    """From the predecessor: it hands over `everything`, or listeners alone, because its `version` is another one."""

    version: str
    everything: bool


class Things(Struct, frozen=True, tag=True):
    """From the predecessor: parts of the data plane, a list of :data:`~userproxy.forwarding.handover.values.Item`.

    `plane` tells its data processes apart, by numbers from 0.
    """

    items: Raw
    plane: int = 0


class PlainListener(Struct, frozen=True, array_like=True):
    """A listener as every release describes it, with one descriptor. `host` is the address it was opened at."""

    namespace: str
    service: str
    port_name: str
    protocol: str
    family: str
    traffic: str
    host: str


class PlainListeners(Struct, frozen=True, tag=True):
    """From the predecessor, instead of `Things`: listeners that are open."""

    listeners: tuple[PlainListener, ...]


class Sockets(Struct, frozen=True, tag=True):
    """From the predecessor: other sockets by their names, one descriptor each: claimed ports, HTTP servers, leases."""

    names: tuple[str, ...]


class Ready(Struct, frozen=True, tag=True):
    """From the predecessor: that was all, but for what changes yet. The successor says so, too, when it has it.

    More may come, and be asked for so, until nothing is left but what changes in a moment.
    """


class Commit(Struct, frozen=True, tag=True):
    """From the predecessor: now that was all. Whoever reads the byte from the pipe that comes with it goes on."""


class Serving(Struct, frozen=True, tag=True):
    """From the successor, when it has read the byte."""


ToSuccessor: TypeAlias = Refusal | Offer | Things | PlainListeners | Sockets | Ready | Commit
ToPredecessor: TypeAlias = Ask | Refusal | Ready | Serving
