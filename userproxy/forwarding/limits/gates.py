"""The gates of a process, one for each service port that has limits."""

import asyncio
from typing import Final

from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.forwarding.limits.gate import Gate
from userproxy.forwarding.shares import Share
from userproxy.model import Limits, ServicePortName

DEFAULT_PATIENCE: Final = 30.0
"""Seconds; a client of TCP waits for a minute or more, and a person does not."""


class Gates:
    """Makes gates, and has them follow. Clients wait for `patience` seconds at most.

    Where several `processes` have clients of the same service ports, `counts` is what they have in common.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        patience: float,
        processes: int = 1,
        counts: LimitCounts | None = None,
    ) -> None:
        self._loop = loop
        self._patience = patience
        self._processes = processes
        self._counts = counts
        self.slots: dict[ServicePortName, int] = {}
        """Where the numbers of a service port are among `counts`."""

    def follow(self, share: Share, limits: Limits | None) -> None:
        """Have a service port's clients let in so from now on."""
        gate = share.gate
        if limits is None or not limits.holds_back:
            share.gate = None
            if gate is not None:
                gate.open()
            return
        slot = self.slots.get(share.name)
        column = None if slot is None or self._counts is None else self._counts.column(slot)
        if gate is None:
            share.gate = Gate(self._loop, share, limits, self._patience, self._processes, column)
        else:
            gate.follow(limits, column)
