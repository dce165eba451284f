"""How many clients of a service port may be held, over all processes of the node."""

from collections.abc import Callable, Iterator
from typing import Final
from weakref import WeakValueDictionary

from userproxy.forwarding.limits.counts import Column
from userproxy.model import ServicePortName
from userproxy.model.holding import MOST_HELD, HeldClients

ColumnOf = Callable[[ServicePortName], Column | None]


class Places:
    """Those of one service port in this process, which its listeners have in common.

    ``held`` are its clients now, ``ever`` all there have been. Others of `processes` hold clients, too: `column_of`
    finds where numbers are exchanged with them; without it each process has its part of what may be.
    """

    __slots__ = ("__weakref__", "_column_of", "_part", "ever", "held", "name")

    def __init__(self, name: ServicePortName, column_of: ColumnOf, processes: int) -> None:
        self._column_of = column_of
        self._part: Final = max(1, MOST_HELD // processes)
        self.name = name
        self.held = 0
        self.ever = 0

    def take(self) -> bool:
        """Have one client more, unless that would be too many."""
        column = self._column_of(self.name)
        if column is None:
            if self.held >= self._part:
                return False
        else:
            with column.lock:
                column.hold(self.held + 1)  # said first: of two that could not have the lock at most one goes on
                if self.held + 1 + column.held_by_others() > MOST_HELD:
                    column.hold(self.held)
                    return False
        self.held += 1
        self.ever += 1
        return True

    def give(self) -> None:
        """Have one client less."""
        self.held -= 1
        self.write()

    def write(self) -> None:
        """Tell other processes how many there are."""
        column = self._column_of(self.name)
        if column is not None:
            column.hold(self.held)


class AllPlaces:
    """Those of all service ports that hold clients."""

    def __init__(self, column_of: ColumnOf = lambda _name: None, processes: int = 1) -> None:
        self._column_of = column_of
        self._processes = processes
        self._known: WeakValueDictionary[ServicePortName, Places] = WeakValueDictionary()

    def of(self, name: ServicePortName) -> Places:
        """Those of a service port."""
        places = self._known.get(name)
        if places is None:
            places = self._known[name] = Places(name, self._column_of, self._processes)
        return places

    def placed(self, name: ServicePortName) -> None:
        """A service port's clients are counted elsewhere from now on."""
        places = self._known.get(name)
        if places is not None:
            places.write()

    def report(self) -> Iterator[HeldClients]:
        """Of each service port that has held clients."""
        return (HeldClients(each.name, each.held, each.ever) for each in list(self._known.values()) if each.ever)
