"""The gates of a process, one for each service port that has limits."""

import asyncio
from typing import Final

from userproxy.forwarding.limits.counts import Column, LimitCounts
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
        self.looking: set[Gate] = set()
        """Those that look whether another process has made room."""
        self._slots: dict[ServicePortName, int] = {}
        """Where the numbers of a service port are among `counts`."""
        self._owners: dict[int, ServicePortName] = {}
        """Whose each of these slots is."""
        self._columns: dict[ServicePortName, Column] = {}

    def place(self, share: Share, slot: int | None) -> None:
        """Have a service port's clients counted there from now on; None where there is no room, or it has gone.

        What was there before is left as it is if it is another service port's by now, or will be: one that has had its
        place until now, and is told of another one later, is counted by no other process meanwhile.
        """
        before = self._slots.get(share.name)
        if slot == before:
            return
        if before is not None:
            del self._slots[share.name], self._owners[before]
        if slot is None:
            column = self._columns.pop(share.name, None)
            if column is not None:
                column.clear()
        else:
            self._evict(slot)
            self._slots[share.name], self._owners[slot] = slot, share.name
            if self._counts is not None:
                column = self._columns[share.name] = self._counts.column(slot)
                column.clear()
        if share.gate is not None:
            share.gate.follow(share.gate.limits, self.column(share.name))

    def _evict(self, slot: int) -> None:
        owner = self._owners.pop(slot, None)
        if owner is not None:
            del self._slots[owner]
            column = self._columns.pop(owner, None)
            if column is not None:
                column.leave()

    def follow(self, share: Share, limits: Limits | None) -> None:
        """Have a service port's clients let in so from now on."""
        gate = share.gate
        if limits is None or not limits.holds_back:
            share.gate = None
            if gate is not None:
                gate.open()
            return
        column = self.column(share.name)
        if gate is None:
            share.gate = Gate(self._loop, share, limits, self._patience, self._processes, column)
            share.gate.looking = self.looking
        else:
            gate.follow(limits, column)

    def column(self, name: ServicePortName) -> Column | None:
        """Where the processes exchange the numbers of a service port; None where they do not."""
        return self._columns.get(name)
