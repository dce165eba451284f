"""Fair shares of descriptors in a shortage: the service port that has most waits first, and makes room for the others.

Within a service port the same holds for the addresses of its clients. Without a shortage no client waits, and a
connection costs an entry in a dictionary.
"""

from collections.abc import Callable
from itertools import islice
from typing import Final, Protocol
from weakref import WeakValueDictionary

import structlog

from userproxy.forwarding.descriptors import PER_CONNECTION, DescriptorBudget
from userproxy.forwarding.limits.gate import Gate
from userproxy.forwarding.log_limit import LogLimit
from userproxy.forwarding.observation.reasons import MADE_ROOM
from userproxy.model import ServicePortName

log = structlog.get_logger()

_MULTIPLE: Final = 8
"""A service port may have this many times the descriptors that are left: the dynamic thresholds of Choudhury and Hahne,
made for the buffers of switches. Alone it gets eight ninths of all, and the more others there are the less each gets,
so that some are always left for one that has none."""

_MOST_FOR_EACH_LEFT: Final = _MULTIPLE // PER_CONNECTION
"""The same in connections."""

_LEAST_RATIO: Final = 2
"""What makes room for another has at least this many times as much as that one; otherwise both would do so in turn."""

IDLE_SECONDS: Final = 1.0
"""After this time a connection on which no client waits for an answer may be ended for one of the same service port."""

BEGIN_SECONDS: Final = 3.0
"""The same where nobody has said anything yet. A program that opens thousands of connections at once, on a host that is
busy, comes to its first words seconds after the handshake of the first of them."""

SILENT_SECONDS: Final = 30.0
"""After this time any connection may: an answer that takes longer is rarer than a client that has gone away."""

_LOOKS: Final = 32
"""How many of the oldest connections are asked how long they have been quiet: 3 us each."""

_MOST_PASSED: Final = 256
"""How many of the oldest connections are looked at, those included that are still being dialled."""

_PAUSE_SECONDS: Final = 0.1
"""Time before a search for an idle connection that found none is repeated."""

_FLOWS_PART: Final = 16
"""One part in so many of all descriptors is for UDP flows, whatever connections there are."""

_PATIENCE_SECONDS: Final = 0.1
"""How long a client waits for room before a connection is ended that is not idle."""

_HELD_PART: Final = 4
"""One part in so many of what is left, at most, is for clients who are accepted only to see their address."""

_MOST_HELD: Final = 8
"""How many such clients a listener may hold."""

_NEVER: Final = float("inf")


class Connection(Protocol):
    """One client's connection, from when it is accepted."""

    def quiet(self) -> tuple[float, float] | None:
        """For how many seconds nothing was said, and after how many it counts as idle; None while dialling."""

    def abort(self, reason: str) -> None:
        """End it with a RST; `reason` is remembered."""


class Flows(Protocol):
    """The UDP flows, which have the same descriptors, one each."""

    @property
    def active(self) -> int:
        """How many there are."""

    def evict(self) -> bool:
        """End one, of the listener that has most; False if there is none."""


class Share:
    """What one service port has: its connections by client address, oldest first."""

    __slots__ = (
        "__weakref__",
        "_peak",
        "_search_after",
        "_shares",
        "_top",
        "addresses",
        "count",
        "gate",
        "name",
        "waits_since",
    )

    def __init__(self, shares: "Shares", name: ServicePortName) -> None:
        self._shares = shares
        self._top = ""
        self._peak = 0
        self._search_after = float("-inf")
        self.name = name
        self.addresses: dict[str, dict[Connection, None]] = {}
        self.count = 0
        self.gate: Gate | None = None
        """What lets its clients in, where their number or rate is limited."""
        self.waits_since = _NEVER
        """Since when its clients wait."""

    def add(self, address: str, connection: Connection) -> None:
        """Count a client's connection."""
        crowd = self.addresses.get(address)
        if crowd is None:
            crowd = self.addresses[address] = {}
        crowd[connection] = None
        count = self.count = self.count + 1
        size = len(crowd)
        if size > self._peak:
            self._top, self._peak = address, size
        if count == 1 or count > self._shares.peak:
            self._shares.grown(self)
        if self.gate is not None:
            self.gate.changed(left=False)

    def remove(self, address: str, connection: Connection) -> None:
        """Count a connection as ended."""
        crowd = self.addresses[address]
        del crowd[connection]
        if not crowd:
            del self.addresses[address]
        count = self.count = self.count - 1
        if not count:
            self._shares.emptied(self)
        if self.gate is not None:
            self.gate.changed(left=True)

    @property
    def top(self) -> str:
        """The address with the most connections, or nearly so; empty if there is none."""
        if not self.addresses:
            return ""
        if 8 * len(self.addresses.get(self._top, ())) < 7 * self._peak:
            self._top = max(self.addresses, key=self._count_of)
            self._peak = self._count_of(self._top)
        return self._top

    def _count_of(self, address: str) -> int:
        return len(self.addresses.get(address, ()))

    def favours(self, address: str) -> bool:
        """Whether another address has so many more connections than this one that it is to make room."""
        return _LEAST_RATIO * (self._count_of(address) + 1) <= self._count_of(self.top)

    def make_room(self, now: float, *, idle: bool) -> bool:
        """End the quietest connection of the address that has most; if `idle`, only one that is waited for by nobody.

        False if there is none.
        """
        if idle and now < self._search_after:
            return False
        crowd = self.addresses.get(self.top, {})
        quietest: Connection | None = None
        most, looks, busy = -1.0, 0, []
        for connection in islice(crowd, _MOST_PASSED):
            quiet = connection.quiet()
            is_idle = quiet is not None and quiet[0] >= quiet[1]
            if not is_idle:
                busy.append(connection)
            if quiet is None:
                continue
            if quiet[0] > most and (is_idle or not idle):
                quietest, most = connection, quiet[0]
            looks += 1
            if looks == _LOOKS:
                break
        if quietest is None:
            self._search_after = now + _PAUSE_SECONDS
            return False
        quietest.abort(MADE_ROOM)
        return True


class Shares:
    """The shares of all service ports."""

    def __init__(self, budget: DescriptorBudget, clock: Callable[[], float], limit: int) -> None:
        """`clock` is monotonic; `limit` is the process's limit of open files."""
        self._budget = budget
        self._clock = clock
        self._least_flows = limit // _FLOWS_PART
        self._known: WeakValueDictionary[ServicePortName, Share] = WeakValueDictionary()
        self._active: dict[Share, None] = {}
        self._largest: Share | None = None
        self.peak = 0
        """The most connections that a share is known to have had since the largest one was last looked for."""
        self._held = 0
        self._shortage = LogLimit()
        self.flows: Flows | None = None
        self.evicted = 0
        """Connections that have made room for others."""

    def of(self, name: ServicePortName) -> Share:
        """The share of a service port, which all its listeners have in common."""
        share = self._known.get(name)
        if share is None:
            share = self._known[name] = Share(self, name)
        return share

    def take(self, share: Share) -> bool:
        """Take a connection's descriptors for a client of a service port, if its share allows it; False otherwise."""
        budget = self._budget
        free = budget.free
        if free < PER_CONNECTION or share.count > _MOST_FOR_EACH_LEFT * free:
            return False
        budget.free = free - PER_CONNECTION  # as take() does, without the call: this is done for every client
        share.waits_since = _NEVER
        return True

    def make_room(self, share: Share) -> bool:
        """Take a connection's descriptors for a client of a service port after ending another connection or flow.

        A service port that has far more loses one: an idle one at once, any after a short time. Otherwise an idle one
        of this service port is ended. False if there is none.
        """
        while self._end_one_for(share):
            if self._budget.take(PER_CONNECTION):
                share.waits_since = _NEVER
                return True
        share.waits_since = min(share.waits_since, self._clock())
        return False

    def take_to_look(self, held: int) -> bool:
        """Take a connection's descriptors to accept a client whose address is to be seen; `held` are held already."""
        if held >= _MOST_HELD or (self._held + 1) * PER_CONNECTION * _HELD_PART > self._budget.free:
            return False
        return self._budget.take(PER_CONNECTION)

    @property
    def held(self) -> int:
        """How many clients are accepted and not served yet."""
        return self._held

    def hold(self, change: int) -> None:
        """Count clients that are accepted and not served yet."""
        self._held += change

    def prefers(self, share: Share, address: str) -> bool:
        """Whether another address of the service port has just made room for a client of this one."""
        return share.favours(address) and self._evict(share, idle=False)

    def make_room_for_flow(self) -> bool:
        """Have a connection make room for one of the first UDP flows; False if there are enough of them."""
        flows, largest = self.flows, self._largest_share()
        if flows is None or largest is None or flows.active >= min(self._least_flows, largest.count):
            return False
        return self._evict(largest, idle=False)

    def grown(self, share: Share) -> None:
        """A share has a connection more. For shares."""
        if share.count == 1:
            self._active[share] = None
        if share.count > self.peak:
            self._largest, self.peak = share, share.count

    def emptied(self, share: Share) -> None:
        """A share has no connection any more. For shares."""
        self._active.pop(share, None)

    def _end_one_for(self, share: Share) -> bool:
        largest, wanted = self._largest_share(), _LEAST_RATIO * (share.count + 1)
        flows = self.flows
        if flows is not None and flows.active > PER_CONNECTION * max(wanted, largest.count if largest else 0):
            return flows.evict()
        if largest is not None and wanted <= largest.count:
            return self._evict(largest, idle=self._clock() - share.waits_since < _PATIENCE_SECONDS)
        return self._evict(share, idle=True)

    def _largest_share(self) -> Share | None:
        """The share with the most connections, or nearly so."""
        if not self._active:
            return None
        if self._largest is None or 8 * self._largest.count < 7 * self.peak:
            self._largest = max(self._active, key=lambda each: each.count)
            self.peak = self._largest.count
        return self._largest

    def _evict(self, share: Share, *, idle: bool) -> bool:
        now, top, count = self._clock(), share.top, share.count
        if not share.make_room(now, idle=idle):
            return False
        self.evicted += 1
        if self._shortage.begins(now):
            log.warning(
                "Out of descriptors: the quietest connections of whoever has most make room for others",
                service_port=str(share.name),
                its_connections=count,
                most_of_them_from=top,
            )
        return True
