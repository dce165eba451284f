"""Time limits of connections and dials: one timer for all that have the same length."""

import asyncio
from collections.abc import Callable, Hashable
from operator import itemgetter
from typing import Final, Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class DeadlineQueue(Generic[Item]):
    """Calls `on_expired(item)` for items that stay in it for `seconds`.

    All items wait equally long, so the first in is the first to expire: one timer serves them all, and
    adding and discarding are O(1). While it is empty no timer is armed beyond the last one. An exception of
    `on_expired` goes to `on_failed(item, exception)`, and the other items have their turn.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        on_expired: Callable[[Item], None],
        on_failed: Callable[[Item, Exception], None],
    ) -> None:
        self._loop = loop
        self._on_expired = on_expired
        self._on_failed = on_failed
        self.seconds = seconds
        """How long items may stay."""
        self.deadlines: Final[dict[Item, float]] = {}
        """When the time of each is over. While there is a :attr:`timer`, to put one here is as :meth:`add`, without the
        call: that is done for every connection."""
        self._in_order = True
        """Whether the items are in the order of their deadlines; they are, but for those of another process."""
        self.timer: asyncio.TimerHandle | None = None
        """What calls for the first of them, or has called for one that is gone."""
        self._due = 0.0
        """When the timer is set to: uvloop's handle of one that is due at once has no `when`."""
        self.pop: Callable[[Item, None], float | None] = self.deadlines.pop
        """``pop(item, None)`` is as :meth:`discard`, without a call of Python: that is done for every connection."""

    def __len__(self) -> int:
        return len(self.deadlines)

    def add(self, item: Item, now: float | None = None) -> None:
        """Start the time of `item`, which is not in the queue. `now` is the loop's time, if that has been asked."""
        deadline = self.deadlines[item] = (self._loop.time() if now is None else now) + self.seconds
        if self.timer is None:
            self._due, self.timer = deadline, self._loop.call_at(deadline, self._expire)

    def deadline(self, item: Item) -> float | None:
        """When the time of `item` is over, on the loop's clock; None if it is not in the queue."""
        return self.deadlines.get(item)

    def restore(self, item: Item, deadline: float) -> None:
        """Go on with the time of an item of another process, whose clock is ours. In any order, and also once more."""
        self.deadlines[item] = deadline
        self._in_order = False
        if self.timer is not None and deadline < self._due:
            self.timer.cancel()
            self.timer = None
        if self.timer is None:
            self._due, self.timer = deadline, self._loop.call_at(deadline, self._expire)

    def discard(self, item: Item) -> None:
        self.deadlines.pop(item, None)

    def cancel(self) -> None:
        """Forget all items and disarm the timer."""
        self.deadlines.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _expire(self) -> None:
        self.timer = None
        now = self._loop.time()
        expired = []
        if not self._in_order:
            in_order = sorted(self.deadlines.items(), key=itemgetter(1))
            self.deadlines.clear()  # the very dictionary whose `pop` others call
            self.deadlines.update(in_order)
            self._in_order = True
        for item, deadline in self.deadlines.items():
            if deadline > now:
                self._due, self.timer = deadline, self._loop.call_at(deadline, self._expire)
                break
            expired.append(item)
        for item in expired:
            del self.deadlines[item]
        for item in expired:
            try:
                self._on_expired(item)
            except Exception as error:  # noqa: BLE001 -- the others' time is over, too
                self._on_failed(item, error)
