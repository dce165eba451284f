"""The affinity tables of service ports: each is shared by its listeners, and expired entries are freed in steps."""

import asyncio
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from userproxy.model import IPFamily, ListenerName, ServicePortName
from userproxy.routing.affinity import AffinityTable, DiscardedEntries

_EXPIRY_SECONDS: Final = 60.0
"""How often expired entries are removed from tables that no new connection touches."""

_RELEASED_PER_TURN: Final = 2000
"""Entries freed in one turn of the loop: a fifth of a millisecond."""


class AffinityTables:
    """One table for each service port and family, for as long as a balancer has it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tables: WeakValueDictionary[tuple[ServicePortName, IPFamily], AffinityTable] = WeakValueDictionary()
        self._discarded = DiscardedEntries(partial(loop.call_soon, self._release))
        self._expiry: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._tables)

    def of(self, listener: ListenerName) -> AffinityTable:
        """The table that a listener shares with the others of its service port and family."""
        key = (listener.service_port, listener.family)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = AffinityTable(self._discarded)
            if self._expiry is None:
                self._expiry = self._loop.call_later(_EXPIRY_SECONDS, self._expire)
        return table

    def find(self, service_port: ServicePortName, family: IPFamily) -> AffinityTable | None:
        """The table of a service port, if any of its listeners has asked for it."""
        return self._tables.get((service_port, family))

    def items(self) -> list[tuple[tuple[ServicePortName, IPFamily], AffinityTable]]:
        """All tables, by service port and family."""
        return list(self._tables.items())

    def shut_down(self) -> None:
        """Cancel the timer."""
        if self._expiry is not None:
            self._expiry.cancel()

    def _expire(self) -> None:
        now = self._loop.time()
        for table in list(self._tables.values()):
            table.expire(now)
        self._expiry = self._loop.call_later(_EXPIRY_SECONDS, self._expire) if self._tables else None

    def _release(self) -> None:
        if self._discarded.release(_RELEASED_PER_TURN):
            self._loop.call_soon(self._release)
