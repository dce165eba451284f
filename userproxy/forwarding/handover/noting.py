"""Which listeners have counted something since they were described, or have other endpoints, noted when they do.

To compare the counters of all of them takes milliseconds, in which nobody is served.
"""

from collections.abc import Iterable
from typing import Any, Final, Protocol

from userproxy.forwarding.observation.counters import ListenerCounters
from userproxy.model import ListenerName

_SET: Final = object.__setattr__


class SnapshotWatch(Protocol):
    """Is told of snapshots."""

    def renewed(self, listener: ListenerName) -> None:
        """A listener has another snapshot, or is told the same one again."""


class CounterChanges:
    """Notes the next thing that is written to counters that it looks at.

    These are of a class of its own until then, so that counting costs what it did both before and afterwards.
    """

    def __init__(self) -> None:
        self._noted: dict[ListenerCounters, None] = {}
        self._classes: dict[type[ListenerCounters], type[ListenerCounters]] = {}

    def look(self, counters: ListenerCounters) -> None:
        """Note the next change of these."""
        kind = type(counters)
        if kind not in self._classes:
            self._classes[kind] = self._watched(kind)
        _SET(counters, "__class__", self._classes[kind])

    def note(self, counters: ListenerCounters) -> None:
        """Take these for changed."""
        for kind, watched in self._classes.items():
            if type(counters) is watched:
                _SET(counters, "__class__", kind)
        self._noted[counters] = None

    def looks_at(self, counters: ListenerCounters) -> bool:
        """Whether the next change of these will be noted: there was none since :meth:`look`."""
        return isinstance(counters, tuple(self._classes.values()))

    def noted(self) -> Iterable[ListenerCounters]:
        """Those that have changed, once each, which stay noted."""
        return self._noted.keys()

    def take(self) -> list[ListenerCounters]:
        """The same; they are not looked at any more."""
        found = list(self._noted)
        self._noted.clear()
        return found

    def end(self, looked_at: Iterable[ListenerCounters]) -> None:
        """Leave all of these as they were."""
        kinds = {watched: kind for kind, watched in self._classes.items()}
        for each in looked_at:
            if type(each) in kinds:
                _SET(each, "__class__", kinds[type(each)])

    def _watched(self, kind: type[ListenerCounters]) -> type[ListenerCounters]:
        noted = self._noted

        def note(counters: ListenerCounters, name: str, value: Any) -> None:
            _SET(counters, "__class__", kind)
            noted[counters] = None
            setattr(counters, name, value)

        return type(kind.__name__, (kind,), {"__slots__": (), "__setattr__": note})
