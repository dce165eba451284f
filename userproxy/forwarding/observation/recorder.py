"""Ids, the last decisions of each service port, and who watches."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeAlias
from weakref import WeakSet, WeakValueDictionary

from userproxy.model import Endpoint, ListenerName, ServicePortName
from userproxy.model.reports import ChangeKind, DialFailure, Outcome, Source

Peer: TypeAlias = tuple[str, int]
"""A client's address and port; the kernel's tuple of an IPv6 one is longer."""

Portal: TypeAlias = bytes | Peer | None
"""What a client dialled: as the kernel's struct sockaddr, or address and port; None if that is not known."""

FailedDial: TypeAlias = tuple[Endpoint, str, DialFailure]

Entry: TypeAlias = tuple[
    float,
    ListenerName,
    Peer,
    Portal,
    Endpoint | None,
    Outcome,
    str,
    tuple[FailedDial, ...],
    float,
    int,
    int,
    Source | None,
    int,
]
"""A decision: time, listener, client, portal, endpoint, verdict, reason, failed dials, seconds, bytes up, down, whose
address the endpoint saw, id."""

MOST_OF_ONE: Final = 256
"""Decisions of a service port that are remembered."""

LEAST_OF_ONE: Final = 8
MOST: Final = 32_768
"""Decisions that are remembered together, roughly: the more service ports there are, the fewer of each. One takes
about 400 bytes."""


class DecisionWatch(Protocol):
    """Somebody who is told of decisions."""

    def tell(self, entry: Entry) -> None:
        """There is another one."""


class Observed(Protocol):
    """A connection or flow, as those know it who are told what becomes of it."""

    id: int


class ConnectionWatch(Protocol):
    """Somebody who is told what becomes of connections."""

    def tell(self, kind: ChangeKind, connection: Observed) -> None:
        """One is new, has gone on, or has come to its end and can still be asked."""


class DecisionRing:
    """The last decisions about clients of one service port, whichever listener they came by."""

    __slots__ = ("__weakref__", "_recorder", "entries")

    def __init__(self, recorder: "Recorder") -> None:
        self._recorder = recorder
        self.entries: deque[Entry] | None = None
        """What is remembered; None before the first. To append one is as :meth:`add` while nobody watches decisions."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries or ())

    def __len__(self) -> int:
        return len(self.entries or ())

    def add(self, entry: Entry) -> None:
        """Remember a decision, in place of the oldest if there is no room."""
        if self.entries is None:
            self.entries = deque(maxlen=self._recorder.room_for_another(self))
        self.entries.append(entry)
        if self._recorder.decision_watches:
            self._recorder.tell(entry)


class Recorder:
    """What all connections and flows of a process note things with. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.faults: dict[int, str] = {}
        """What connections and flows suffer, by their ids: those that suffer anything."""
        self.last_id = 0
        """Of the newest connection or flow: the next one has one more."""
        self.decision_watches: list[DecisionWatch] = []
        self.connection_watches: list[ConnectionWatch] = []
        self._rings: WeakValueDictionary[ServicePortName, DecisionRing] = WeakValueDictionary()
        self._filled: WeakSet[DecisionRing] = WeakSet()

    def ring(self, service_port: ServicePortName) -> DecisionRing:
        """The ring of a service port, which lives as long as one of its listeners has it."""
        ring = self._rings.get(service_port)
        if ring is None:
            ring = self._rings[service_port] = DecisionRing(self)
        return ring

    def rings(self) -> list[tuple[ServicePortName, DecisionRing]]:
        """All that remember something."""
        return [(name, ring) for name, ring in self.all_rings() if len(ring)]

    def all_rings(self) -> Iterator[tuple[ServicePortName, DecisionRing]]:
        """Those that there are when the first is asked for. Others may come, and some of them go, meanwhile."""
        for each in self._rings.valuerefs():
            ring = each()
            if ring is not None:
                yield each.key, ring

    def room_for_another(self, ring: DecisionRing) -> int:
        """How many decisions a ring may hold that is to have its first one now."""
        self._filled.add(ring)
        return max(LEAST_OF_ONE, min(MOST_OF_ONE, MOST // len(self._filled)))

    def tell(self, entry: Entry) -> None:
        """Tell all who watch of a decision."""
        for watch in self.decision_watches:
            watch.tell(entry)

    def tell_change(self, kind: ChangeKind, connection: Observed) -> None:
        """Tell all who watch what has become of a connection."""
        for watch in self.connection_watches:
            watch.tell(kind, connection)
