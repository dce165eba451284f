"""When UDP flows end: after no datagram has come in either direction for some time, since UDP has no other end."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from msgspec import Struct

BRIEF_SECONDS: Final = 30.0
"""How long a flow may be quiet that has not lasted: nf_conntrack_udp_timeout, which NAT in front of us has, too.

kube-proxy's 250 ms lose answers: a resolver asks again only after 5 s, and a recursive one may answer that late.
"""

STREAM_SECONDS: Final = 120.0
"""How long a flow may be quiet that went both ways and lasted: nf_conntrack_udp_timeout_stream."""

STREAM_AFTER: Final = 2.0
"""A client that writes again so long after its flow began, and has been answered, has a stream: nf_conntrack's rule,
which keeps a resolver's thousands of single questions from staying for two minutes."""

_GRAINS: Final = 16
_LONGEST_GRAIN: Final = 1.0


class IdleLimits(Struct, frozen=True):
    """Seconds that a flow may be quiet in both directions: one that was brief so far, and a stream."""

    brief: float = BRIEF_SECONDS
    stream: float = STREAM_SECONDS

    @property
    def grain(self) -> float:
        """How exactly, in seconds, a flow's last datagram is recorded: less often is cheaper for every datagram."""
        return min(self.brief / _GRAINS, self.stream / _GRAINS, _LONGEST_GRAIN)


def idle_limits(configured: float | None) -> IdleLimits:
    """The limits for a configured ``--udp-timeout``, which holds for every flow; the defaults if there is none."""
    return IdleLimits() if configured is None else IdleLimits(configured, configured)


F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)


class AgingFlows(Protocol[F_co]):
    """The flows of a listener as the timer needs them: :class:`~userproxy.forwarding.udp.flows.FlowTable`."""

    limits: IdleLimits

    @property
    def next_deadline(self) -> float | None:
        """When the next flow has been quiet for too long if nothing comes; None without flows."""

    def expired(self, now: float) -> Iterable[F_co]:
        """The flows that have been quiet for too long."""


class IdleTimer(Generic[F]):
    """Calls `end(flow)` for the flows of a listener that have been quiet for too long; one timer for all of them.

    An exception of `end` goes to `on_failed`, and the other flows have their turn.
    """

    __slots__ = ("_end", "_flows", "_loop", "_on_failed", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        flows: AgingFlows[F],
        end: Callable[[F], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._flows = flows
        self._end = end
        self._on_failed = on_failed
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Wait for the next flow that will have been quiet for too long, unless it waits already."""
        if self._timer is None:
            deadline = self._flows.next_deadline
            if deadline is not None:
                # A grain later, so that one timer ends all flows of that time.
                self._timer = self._loop.call_at(deadline + self._flows.limits.grain, self._expire)

    def restart(self) -> None:
        """Wait anew, because the limits are others."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """End no more flows."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        for flow in self._flows.expired(self._loop.time()):
            try:
                self._end(flow)
            except Exception as error:  # noqa: BLE001 -- the others' time is over, too
                self._on_failed(error)
        self.start()
