"""The flows of a UDP listener by client and by age, and how many of them all listeners may have together.

Time is an argument here; there is no socket and no timer.
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Generic, TypeVar

from userproxy.forwarding.udp.idle import IdleLimits


class Flow:
    """What a table knows of a flow.

    ``client`` tells clients apart. ``seen`` is the time of its last datagram, known to the table's grain; from
    ``due`` on the next datagram is to be noted with :meth:`FlowTable.touch`.
    """

    __slots__ = ("client", "due", "seen", "stream")

    def __init__(self, client: bytes) -> None:
        self.client = client
        self.seen = 0.0
        self.due = 0.0
        self.stream = False


F = TypeVar("F", bound=Flow)


class FlowTable(Generic[F]):
    """The flows of one listener. All operations but iteration and :meth:`reconsider` are O(1).

    Brief flows and streams are each in the order of their last datagram, which is the order in which they expire.
    """

    __slots__ = ("_brief", "_streams", "by_client", "limits")

    def __init__(self, limits: IdleLimits) -> None:
        self.limits = limits
        self.by_client: dict[bytes, F] = {}
        self._brief: OrderedDict[F, None] = OrderedDict()
        self._streams: OrderedDict[F, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.by_client)

    def __iter__(self) -> Iterator[F]:
        return chain(self._brief, self._streams)

    def add(self, flow: F, now: float) -> None:
        """Take in a new flow, whose client has none here."""
        self.by_client[flow.client] = flow
        flow.stream = False
        flow.seen, flow.due = now, now + self.limits.grain
        self._brief[flow] = None

    def restore(self, flow: F, seen: float, due: float, *, stream: bool) -> None:
        """Take in a flow of another process, those first whose last datagram is oldest."""
        self.by_client[flow.client] = flow
        flow.stream, flow.seen, flow.due = stream, seen, due
        self._queue(flow)[flow] = None

    def move(self, flow: F, seen: float, due: float, *, stream: bool) -> None:
        """A flow that was restored has had datagrams in the other process."""
        del self._queue(flow)[flow]
        self.restore(flow, seen, due, stream=stream)

    def in_order(self) -> None:
        """Bring flows into the order of their last datagrams, after some have been restored or moved."""
        for queue in (self._brief, self._streams):
            flows = sorted(queue, key=lambda flow: flow.seen)
            queue.clear()
            queue.update(dict.fromkeys(flows))

    def discard(self, flow: F) -> bool:
        """Forget a flow; False if it is not here."""
        if self.by_client.get(flow.client) is not flow:
            return False
        del self.by_client[flow.client]
        del self._queue(flow)[flow]
        return True

    def touch(self, flow: F, now: float) -> None:
        """Note that a datagram of the flow came, in either direction."""
        flow.seen, flow.due = now, now + self.limits.grain
        self._queue(flow).move_to_end(flow)

    def promote(self, flow: F, now: float) -> None:
        """Note that the flow is a stream, and that a datagram came."""
        del self._queue(flow)[flow]
        flow.stream = True
        self._streams[flow] = None
        flow.seen, flow.due = now, now + self.limits.grain

    def reconsider(self) -> None:
        """Have the next datagram of every flow recorded, however recent the last one was."""
        for flow in self:
            flow.due = float("-inf")

    def limit(self, limits: IdleLimits, now: float) -> None:
        """Apply other limits; they count from now on for flows that are there."""
        self.limits = limits
        for flow in self:
            # Not later: it may have been brought forward to the next datagram.
            flow.seen, flow.due = now, min(flow.due, now + limits.grain)

    @property
    def oldest(self) -> F | None:
        """The flow that would expire first, and so is the one to make room."""
        brief = next(iter(self._brief), None)
        stream = next(iter(self._streams), None)
        if brief is None or stream is None:
            return brief or stream
        return brief if self._deadline(brief) <= self._deadline(stream) else stream

    @property
    def next_deadline(self) -> float | None:
        """When the next flow expires if nothing comes; None without flows."""
        oldest = self.oldest
        return None if oldest is None else self._deadline(oldest)

    def expired(self, now: float) -> Iterator[F]:
        """The flows that have been quiet for too long. The caller discards each before it takes the next.

        One that it fails to discard is forgotten, or it would come again for ever.
        """
        while (flow := self.oldest) is not None and self._deadline(flow) <= now:
            yield flow
            self._queue(flow).pop(flow, None)

    def since(self, time: float) -> Iterator[F]:
        """The flows that have had a datagram since `time`, and perhaps some that had one a grain earlier."""
        for queue in (self._brief, self._streams):
            for flow in reversed(queue):
                if flow.seen + self.limits.grain < time:
                    break
                yield flow

    def _queue(self, flow: F) -> OrderedDict[F, None]:
        return self._streams if flow.stream else self._brief

    def _deadline(self, flow: F) -> float:
        limits = self.limits
        return flow.seen + (limits.stream if flow.stream else limits.brief) + limits.grain


class FlowQuota(Generic[F]):
    """How many flows the listeners of a process have, and who makes room when there are too many.

    A table that has more than its listener's limit, or its equal share of what all have, makes room itself; for one
    that has less, the table with the most flows does. So a client that uses ever new ports displaces the flows of
    its own listener alone.
    """

    def __init__(self, limit: int, limit_per_listener: int) -> None:
        self.limit = limit
        self.limit_per_listener = limit_per_listener
        self.total = 0
        self._tables: dict[FlowTable[F], None] = {}
        self._largest: FlowTable[F] | None = None

    def add(self, table: FlowTable[F]) -> None:
        """Note that `table` has a flow more."""
        self.total += 1
        self._tables[table] = None
        if self._largest is None or len(table) > len(self._largest):
            self._largest = table

    def remove(self, table: FlowTable[F]) -> None:
        """Note that `table` has a flow less."""
        self.total -= 1
        if not len(table):
            self._tables.pop(table, None)
            if self._largest is table:
                self._largest = None

    def full(self, table: FlowTable[F]) -> FlowTable[F] | None:
        """The table whose oldest flow must go before `table` can have another; None if there is room."""
        if len(table) >= self.limit_per_listener:
            return table
        return self.giver(table) if self.total >= self.limit else None

    def giver(self, table: FlowTable[F]) -> FlowTable[F] | None:
        """The table whose oldest flow should go if `table` is to have another; None if there is no flow at all."""
        if not self.total:
            return None
        share = self.total // (len(self._tables) + (table not in self._tables))
        if len(table) and len(table) >= share:
            return table
        return self._larger_than(share)

    @property
    def largest(self) -> FlowTable[F] | None:
        """A table that has more flows than most; None if there is no flow at all."""
        return self._larger_than(self.total // len(self._tables)) if self.total else None

    def _larger_than(self, share: int) -> FlowTable[F]:
        if self._largest is None or len(self._largest) <= share:
            self._largest = max(self._tables, key=len)
        return self._largest
