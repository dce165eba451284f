"""How many UDP flows a service port may have, over all its listeners and over all processes."""

from collections.abc import Callable, Sized
from weakref import WeakValueDictionary

from userproxy.forwarding.limits.counts import Column
from userproxy.model import ServicePortName

ColumnOf = Callable[[ServicePortName], Column | None]


class FlowLimit:
    """That of one service port in this process, which its listeners have in common.

    Others of `processes` have flows, too: `column_of` finds where numbers are exchanged with them; without it each
    process has its part of what may be.
    """

    __slots__ = ("__weakref__", "_column_of", "_processes", "_tables", "most", "name")

    def __init__(self, name: ServicePortName, column_of: ColumnOf, processes: int) -> None:
        self._column_of = column_of
        self._processes = processes
        self._tables: list[Sized] = []
        self.name = name
        self.most = 0

    @property
    def reason(self) -> str:
        """Why another flow is not opened: a clause."""
        return f"there are {self.most} flows, as many as userproxy.io/max-connections allows"

    def admits(self) -> bool:
        """Whether there may be one flow more. :meth:`write` is to follow once it is there, or is not."""
        count, column = self._count, self._column_of(self.name)
        if column is None:
            return count < max(1, self.most // self._processes)
        with column.lock:
            column.write(count + 1, 0)  # said first: of two that could not have the lock at most one goes on
            if count + column.others(is_first=False) < self.most:
                return True
            column.write(count, 0)
        return False

    def write(self) -> None:
        """Tell other processes how many there are."""
        column = self._column_of(self.name)
        if column is not None:
            column.write(self._count, 0)

    def join(self, flows: Sized) -> None:
        """Count the flows of another listener, too."""
        self._tables.append(flows)
        self.write()

    def leave(self, flows: Sized) -> None:
        """Count those of a listener no longer."""
        self._tables = [each for each in self._tables if each is not flows]
        self.write()

    @property
    def _count(self) -> int:
        return sum(map(len, self._tables))


class FlowLimits:
    """Those of all service ports that have one."""

    def __init__(self, column_of: ColumnOf = lambda _name: None, processes: int = 1) -> None:
        self._column_of = column_of
        self._processes = processes
        self._known: WeakValueDictionary[ServicePortName, FlowLimit] = WeakValueDictionary()

    def of(self, name: ServicePortName, most: int) -> FlowLimit:
        """That of a service port, whose listeners may have so many flows from now on."""
        limit = self._known.get(name)
        if limit is None:
            limit = self._known[name] = FlowLimit(name, self._column_of, self._processes)
        limit.most = most
        return limit

    def placed(self, name: ServicePortName) -> None:
        """A service port's flows are counted elsewhere from now on."""
        limit = self._known.get(name)
        if limit is not None:
            limit.write()
