"""Connections as values: all that a process must know to go on with those of another one, beside their sockets.

Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from typing import TypeAlias

from msgspec import Struct

from userproxy.model import Endpoint, ProxyProtocol
from userproxy.model.reports import DialFailure, Source

Address: TypeAlias = tuple[str, int]


class DirectionState(Struct, frozen=True, gc=False, array_like=True):
    """One direction of a relay.

    `pending` are bytes that wait in memory, `kept` how many of them were in a pipe. `fill` are the bytes that wait in a
    pipe, whose two ends are handed over with it; 0 where there is none.
    """

    count: int = 0
    ended: bool = False
    blocked: bool = False
    bulk: bool = False
    streak: int = 0
    kept: int = 0
    pending: bytes = b""
    fill: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether nothing waits, and what comes is small: its end may have come."""
        return not (self.blocked or self.bulk or self.streak or self.kept or self.pending or self.fill)


class DialState(Struct, frozen=True, gc=False, array_like=True):
    """How a connection began: who came, when and to which portal, and what was tried for him.

    `attempt` is the number of the dial that is under way, or was last. `deadline` is when its time is over; None where
    no dial is under way. `began` is when it began, and `source` whose address the last of `tried` sees.
    `chosen` is an endpoint that is to be tried next, if that is decided already.
    A client whose PROXY header is still to come `awaits` that, and `deadline` is for it; whoever is `introduced` is
    whom a header has named.
    """

    id: int
    peer: Address
    portal: bytes | Address | None
    opened: float
    began: float
    tried: tuple[Endpoint, ...] = ()
    failed: tuple[tuple[Endpoint, str, DialFailure], ...] = ()
    failures: int = 0
    attempt: int = -1
    deadline: float | None = None
    source: Source | None = None
    awaits: ProxyProtocol | None = None
    chosen: Endpoint | None = None
    introduced: bool = False


class RelayState(Struct, frozen=True, gc=False, array_like=True):
    """An established connection. Its endpoint is the last that was tried.

    `seen` is what had been delivered when the half-open time last began, `deadline` when that is over, if it runs.
    `settled` are the bytes in each direction that the listener's counters have already.
    """

    dial: DialState
    dial_seconds: float
    up: DirectionState
    down: DirectionState
    seen: int = 0
    deadline: float | None = None
    settled: tuple[int, int] = (0, 0)
